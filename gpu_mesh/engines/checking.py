"""One look at an engine: what it says of itself and how long that took, or why it does not."""

from __future__ import annotations

import time
from collections.abc import Callable

from gpu_mesh.engines.base import EngineStatus, Model
from gpu_mesh.errors import MeshError

__all__ = ["checked"]


def checked(ask: Callable[[], tuple[str | None, tuple[Model, ...]]]) -> EngineStatus:
    """The status by `ask`, which gives version and models, or raises one of our errors."""
    version: str | None = None
    models: tuple[Model, ...] = ()
    error: str | None = None
    started = time.perf_counter()
    try:
        version, models = ask()
    except MeshError as failure:
        error = str(failure)
    took_ms = (time.perf_counter() - started) * 1000
    return EngineStatus(reachable=error is None, response_ms=took_ms, version=version, models=models, error=error)
