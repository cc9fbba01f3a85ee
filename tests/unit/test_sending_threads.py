"""Many threads that send at once look for the broker once: each look costs a connection (SPEC S1)."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gpu_mesh.celery import CHECK_EVERY_S, MeshCelery
from gpu_mesh.errors import BrokerUnavailable

THREADS = 8


class Looker:
    """Stands in for services/notices: counts looks, and holds each until it is told."""

    outage = None

    def __init__(self) -> None:
        self.looks = 0
        self.goes_on = threading.Event()
        self.error: Exception | None = None

    def look(self, *_: Any, **__: Any) -> None:
        self.looks += 1
        assert self.goes_on.wait(10)
        if self.error is not None:
            raise self.error


@pytest.fixture
def looker() -> Looker:
    return Looker()


@pytest.fixture
def app(looker: Looker) -> MeshCelery:
    found = MeshCelery("threads", set_as_current=False)
    found.__dict__["_notices"] = looker
    return found


def test_while_one_looks_the_others_go_on(app: MeshCelery, looker: Looker):
    app.broker_answered()
    app._checked_at -= CHECK_EVERY_S * 1.5
    with ThreadPoolExecutor(THREADS) as pool:
        sends = [pool.submit(app.check_open, {}) for _ in range(THREADS)]
        done = [send for send in sends if _is_done(send)]
        assert len(done) == THREADS - 1
        looker.goes_on.set()
    assert looker.looks == 1


def test_before_anybody_was_found_each_looks(app: MeshCelery, looker: Looker):
    """None goes on as if the broker were there; and none waits for another one's answer that does not come."""
    looker.error = BrokerUnavailable("away")
    looker.goes_on.set()
    with ThreadPoolExecutor(THREADS) as pool:
        sends = [pool.submit(app.check_open, {}) for _ in range(THREADS)]
    assert all(isinstance(send.exception(), BrokerUnavailable) for send in sends)
    assert looker.looks == THREADS


def _is_done(send: Any) -> bool:
    try:
        send.result(timeout=2)
    except TimeoutError:
        return False
    return True
