"""Asks a device's engine that did not answer until it does: a thread of the worker's parent, idle otherwise."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from gpu_mesh.domain.availability import REALTIME_QUEUE
from gpu_mesh.errors import BrokerUnavailable

__all__ = ["EngineWatch"]

logger = logging.getLogger(__name__)

#: How often it looks whether its queue is closed, and asks the engine, s.
LOOK_EVERY_S = 1.0


class EngineWatch:
    """Calls `mend` (services/engine_health) while `closed` has ai-realtime. `mend` may raise BrokerUnavailable."""

    def __init__(self, closed: Callable[[], frozenset[str]], mend: Callable[[], object]) -> None:
        self._closed = closed
        self._mend = mend
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; an answer that is waited for is not."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_EVERY_S):
            if REALTIME_QUEUE in self._closed():
                self._look()

    def _look(self) -> None:
        try:
            self._mend()
        except BrokerUnavailable as exc:
            logger.debug("engine not asked: %s", exc, extra={"action": "engine"})
        except Exception:
            logger.exception("engine not asked", extra={"action": "engine"})
