"""A stop's limit: jobs are asked to yield, and what still runs after `GPU_MESH_STOP_TIMEOUT_S` is interrupted."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from celery.worker.state import reserved_requests

from gpu_mesh.services.board import BOARD
from workers.request import MeshRequest

__all__ = ["STOP_REASON", "StopLimit", "interrupt_all"]

logger = logging.getLogger(__name__)

#: Why jobs are asked to yield.
STOP_REASON = "the worker stops"


class StopLimit:
    """Calls `on_limit` once a stop has taken `limit_s`, from a thread of its own."""

    def __init__(self, limit_s: float, on_limit: Callable[[], None]) -> None:
        self._limit_s = limit_s
        self._on_limit = on_limit
        # Unlike an Event, it can be set by a signal handler that interrupts its own setter.
        self._said: SimpleQueue[float | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="stop limit", daemon=True)

    def start(self) -> None:
        """Wait for a stop."""
        self._thread.start()

    def begin(self) -> None:
        """The stop begins, or goes on. From anywhere, also from a signal handler."""
        BOARD.ask_all(STOP_REASON)
        self._said.put(time.monotonic())

    def end(self) -> None:
        """No job runs any more."""
        self._said.put(None)

    def _run(self) -> None:
        begun = self._said.get()
        while begun is not None:
            try:
                # What is said once more changes nothing, but the end does.
                if self._said.get(timeout=max(0.0, begun + self._limit_s - time.monotonic())) is None:
                    return
            except Empty:
                self._on_limit()
                return


def interrupt_all(worker: Any, reason: str) -> None:
    """Kill every child of the pool; what they ran goes back."""
    try:
        for request in tuple(reserved_requests):
            logger.warning("%s is interrupted: %s", request.id, reason, extra={"action": "interrupt"})
            if isinstance(request, MeshRequest):
                request.interrupt(worker.pool, reason)
        # Those that begin their next job only now, and those of requests of stock Celery's.
        for pid in worker.pool.info["processes"]:
            worker.pool.terminate_job(pid, signal.SIGKILL)
    except Exception:
        # The pool may be gone between two looks; the supervisor's own limit comes next.
        logger.exception("not all jobs interrupted", extra={"action": "interrupt"})
