"""A time limit that also ends a wait for a silent server."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["alarm"]


@contextmanager
def alarm(seconds: float, error: Exception) -> Iterator[None]:
    """Raise `error` in the block once it has taken `seconds`.

    By SIGALRM, which only the main thread of a process can have: in another one nothing is raised.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
