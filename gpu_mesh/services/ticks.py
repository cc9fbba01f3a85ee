"""Timing the mesh's own periodic work, for the metrics (SPEC A4)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.settings import Settings
from gpu_mesh.store import ticks
from gpu_mesh.store.client import kept_client, mapped_errors

__all__ = ["timed"]

logger = logging.getLogger(__name__)


@contextmanager
def timed(settings: Settings, name: str, due: float | None = None) -> Iterator[None]:
    """Count what the block took, and whether it failed; `due`: when it was to begin, s since the epoch.

    While Redis is away nothing is counted, and nothing fails for that.
    """
    began, failed = time.monotonic(), True
    try:
        yield
        failed = False
    finally:
        try:
            with mapped_errors(settings):
                ticks.note(kept_client(settings), name, time.monotonic() - began, failed=failed, due=due)
        except BrokerUnavailable as exc:
            logger.debug("a run of %s is not counted: %s", name, exc, extra={"action": "tick"})
