"""What runs on a device that is to be left: asked to yield, killed when that takes too long (SPEC F4; DESIGN §6).

Its tasks go to the front of their queues, the most important first to whom claims next, and are run elsewhere. It is a
state in Redis (store/cordons) that says so, not a message: no notice can be lost.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from celery.worker.state import reserved_requests

from gpu_mesh.store.holds import Leave
from workers.request import MeshRequest

__all__ = ["Leaving"]

logger = logging.getLogger(__name__)


class Leaving:
    """One worker's. `jobs` are the requests that it has; times come from `clock`, s."""

    def __init__(
        self,
        worker: Any,
        *,
        jobs: Callable[[], tuple[Any, ...]] = lambda: tuple(reserved_requests),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._worker = worker
        self._jobs = jobs
        self._clock = clock
        #: When each was asked, by delivery tag.
        self._asked: dict[str, float] = {}

    def look(self, leave: Leave | None) -> None:
        """Called now and then: what runs is to yield, or may go on."""
        try:
            jobs = [job for job in self._jobs() if isinstance(job, MeshRequest) and not job.acknowledged]
        except RuntimeError:  # the event loop took one in meanwhile: at the next look
            return
        if leave is None:
            for job in jobs:
                if job.message.delivery_tag in self._asked:
                    job.excuse()
            self._asked.clear()
            return
        for job in jobs:
            self._have_yield(job, leave)

    def _have_yield(self, job: MeshRequest, leave: Leave) -> None:
        tag = job.message.delivery_tag
        if tag not in self._asked:
            self._asked[tag] = self._clock()
            logger.warning("%s is to yield: %s", job.id, leave.why, extra={"action": "leave", "task": job.id})
            job.ask_to_yield(leave.why)
        if self._clock() - self._asked[tag] >= leave.within_s and not job.is_interrupted:
            logger.warning("%s is interrupted: %s", job.id, leave.why, extra={"action": "leave", "task": job.id})
            job.interrupt(self._worker.pool, leave.why)
