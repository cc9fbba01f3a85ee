"""A limit that ends a wait (SPEC R1)."""

from __future__ import annotations

import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from gpu_mesh.services.alarm import alarm


@pytest.fixture(autouse=True)
def _own_signal():
    """pytest-timeout's own alarm, put back afterwards."""
    before, left = signal.getsignal(signal.SIGALRM), signal.setitimer(signal.ITIMER_REAL, 0)
    yield
    signal.signal(signal.SIGALRM, before)
    signal.setitimer(signal.ITIMER_REAL, *left)


def test_it_ends_a_wait_for_a_silent_server():
    """R1: in the middle of a read; nothing stays behind."""
    before = signal.getsignal(signal.SIGALRM)
    mine, other = socket.socketpair()
    with mine, other:
        mine.settimeout(30)
        with pytest.raises(ValueError, match="too long"), alarm(0.05, ValueError("too long")):
            mine.recv(1)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_ends_in_time_is_left_alone():
    """R1: also later, when the time is over."""
    with alarm(0.05, ValueError("too long")):
        pass
    threading.Event().wait(0.1)


def test_another_thread_has_no_alarm():
    """Only the main thread can have one: a worker of threads goes on without."""

    def work() -> bool:
        with alarm(0.01, ValueError("too long")):
            return threading.Event().wait(0.05)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result() is False
