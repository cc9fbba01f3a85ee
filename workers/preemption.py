"""Has the job that runs here yield to more urgent work: asked at its next checkpoint, or killed (DESIGN §7).

In a thread of the worker's parent, which sleeps while nothing runs that may be preempted, and for the first moments of
what does: a worker of short jobs never asks Redis. What is asked comes over a list of the worker's own within
milliseconds; it also looks by itself, as soon as the job may be asked and then every second.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from celery.worker.state import reserved_requests

from gpu_mesh.domain.preemption import BY_RESTART, NEVER
from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.services.preemption import LOOK_EVERY_S
from gpu_mesh.store.preemption import SETTLE_S, Asked
from workers.request import BEGUN, MeshRequest

__all__ = ["Preemption"]

logger = logging.getLogger(__name__)

#: Added to the shortest run before the first look, s: clocks differ, and Redis counts from the claim.
SLACK_S = 0.005
#: Pause while Redis is away, s.
AWAY_S = 1.0


class Listens(Protocol):
    """What the thread needs of a `services.preemption.Ear`."""

    def look(self, *, fresh: bool) -> Asked: ...
    def wait(self, timeout_s: float, unless: Callable[[], bool]) -> tuple[str, str] | None: ...
    def spare(self, tag: str, queue: str) -> None: ...
    def forget(self) -> None: ...
    def close(self) -> None: ...


class Preemption:
    """One worker's. `after_s`: how long a job runs at least before it is asked."""

    def __init__(self, worker: Any, ear: Listens, after_s: float) -> None:
        self._worker = worker
        self._ear = ear
        self._after_s = after_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="preemption", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        BEGUN.set()
        self._ear.close()  # its wait ends with it
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            BEGUN.wait()
            BEGUN.clear()
            # A request that has just been made is not among those that Celery knows yet, either.
            if self._stopping.wait(max(SLACK_S, BEGUN.at + self._after_s + SLACK_S - time.monotonic())):
                return
            try:
                self._listen()
            except BrokerUnavailable as exc:
                self._try_again(AWAY_S)
                logger.debug("not listening: %s", exc, extra={"action": "preempt"})
            except Exception:
                self._try_again(AWAY_S)
                logger.exception("not listening", extra={"action": "preempt"})

    def _try_again(self, pause_s: float) -> None:
        self._ear.forget()
        self._stopping.wait(pause_s)
        BEGUN.set()

    def _listen(self) -> None:
        """Until what runs now has ended, or is joined by another job."""
        fresh = True
        for tag, request in self._jobs().items():
            if request.preemptible == NEVER:  # its message may not say so
                self._ear.spare(tag, request.queue)
        while not self._stopping.is_set() and not BEGUN.is_set() and (jobs := self._jobs()):
            told = self._ear.look(fresh=fresh)
            self._heed(jobs, told)
            heard = self._ear.wait(SETTLE_S if told.again else LOOK_EVERY_S, BEGUN.is_set)
            if heard is not None:
                tag, queue = heard
                # Anew: a task that has come back since runs under the same tag.
                if (asked := self._jobs().get(tag)) is not None:
                    self._ask(asked, queue)
                fresh = not tag
            else:
                fresh = False

    def _jobs(self) -> dict[str, MeshRequest]:
        """What runs here and may be preempted, by delivery tag."""
        try:
            found = [one for one in tuple(reserved_requests) if isinstance(one, MeshRequest) and one.may_be_preempted]
        except RuntimeError:  # the event loop took one in meanwhile
            time.sleep(0)
            return self._jobs()
        return {one.message.delivery_tag: one for one in found}

    def _heed(self, jobs: dict[str, MeshRequest], told: Asked) -> None:
        for tag, request in jobs.items():
            if tag in told.jobs:
                self._ask(request, told.jobs[tag])
            elif request.preempted_for is not None:
                request.excuse()

    def _ask(self, request: MeshRequest, queue: str) -> None:
        if request.preempted_for is not None:
            return
        if request.preemptible == NEVER:
            return
        logger.info("%s yields to %s", request.id, queue, extra={"action": "preempt", "task": request.id})
        request.preempt(self._worker.pool, queue, kill=request.preemptible == BY_RESTART)
