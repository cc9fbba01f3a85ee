"""How often a worker looks after its children (DESIGN §6; SPEC H9: what is idle costs nothing)."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from gpu_mesh.settings import settings
from workers.steps import IDLE_WATCH_EVERY_S, WATCH_EVERY_S, Claiming, _idle_watch_s


class Hub:
    """Keeps what it is to call later."""

    def __init__(self) -> None:
        self.later: list[float] = []
        self.cancelled = 0

    def call_later(self, seconds: float, call: Callable[..., Any], *args: Any) -> Any:
        self.later.append(seconds)
        return SimpleNamespace(cancel=self._cancel)

    def _cancel(self) -> None:
        self.cancelled += 1


def test_a_job_that_comes_has_it_look_sooner():
    """Once: a child that is killed at once is not to lie until the idle worker's next look."""
    hub = Hub()
    consumer = SimpleNamespace(hub=hub)
    step = Claiming(consumer)
    step._look_in(consumer, IDLE_WATCH_EVERY_S)
    for _ in range(2):
        step._hurry(sender=consumer)
    assert (hub.later, hub.cancelled) == ([IDLE_WATCH_EVERY_S, WATCH_EVERY_S], 1)


@pytest.mark.parametrize(("ttl_s", "expected"), [("10", 2.5), ("2", IDLE_WATCH_EVERY_S)])
def test_an_idle_worker_without_a_device_looks_less_often(monkeypatch: pytest.MonkeyPatch, ttl_s: str, expected: float):
    """H9; but often enough for the beat that its lease needs."""
    monkeypatch.setenv("GPU_MESH_LEASE_TTL_S", ttl_s)
    monkeypatch.delenv("GPU_MESH_WORKER_DEVICE", raising=False)
    settings.cache_clear()
    try:
        assert _idle_watch_s() == expected < float(ttl_s)
    finally:
        settings.cache_clear()
