"""The parent's side of a run: what becomes of its message when it yields, or is interrupted (DESIGN §6, §7)."""

from __future__ import annotations

import json
import logging
import math
import signal as signals
import threading
import time
from collections.abc import Mapping
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from celery import states
from celery.exceptions import Ignore, Reject, Retry
from celery.worker.request import Request
from celery.worker.state import task_ready

from gpu_mesh.domain.preemption import PREEMPTED, VICTIMS, WHEN_ASKED, Preemptible
from gpu_mesh.domain.queues import OWN_TASKS
from gpu_mesh.domain.stats import Outcome
from gpu_mesh.domain.untyped import mapping
from gpu_mesh.services.board import BOARD
from gpu_mesh.services.streaming import end_of_killed
from gpu_mesh.settings import settings
from gpu_mesh.store import journal
from gpu_mesh.store.claims import CLAIM_HEADER, Ended
from gpu_mesh.tasks.checkpointing import HandBack, reason_for
from gpu_mesh.tasks.options import HEADER, header_of

__all__ = ["BEGUN", "MeshRequest"]

logger = logging.getLogger(__name__)

#: How long a cancelled run may take to end beyond the grace of its script, s; then its process is killed.
END_S = 2.0
#: What the statistics call the states in which a task ends.
_OUTCOMES: dict[str | None, Outcome] = {
    states.SUCCESS: Outcome.SUCCESS,
    states.FAILURE: Outcome.FAILURE,
    states.REVOKED: Outcome.REVOKED,
}


class Begun(threading.Event):
    """Set when a job has come in that may be preempted (workers/preemption); `at`: the last time, s, monotonic."""

    at = -math.inf

    def set(self) -> None:
        self.at = time.monotonic()
        super().set()


BEGUN = Begun()


class MeshRequest(Request):
    """What `GpuTask.Request` names."""

    #: Why its child was killed, or is to be once it begins.
    _interrupted: str | None = None
    _pool: Any = None
    #: How the run ended, for the journal; None: it has not, the task goes on in another one.
    _ended: str | None = states.SUCCESS
    #: What the statistics call that.
    _unfinished = Outcome.IGNORED
    #: Kills its child, which was told to end and still is there; its device is not free before.
    _ending: threading.Timer | None = None
    _announcing = False
    #: The queue whose work it is to yield to.
    preempted_for: str | None = None
    #: When it came in, s, monotonic.
    _came_at = 0.0
    acknowledged: bool

    def __init__(self, message: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(message, *args, **kwargs)
        claim = self._request_dict.get(CLAIM_HEADER)
        if isinstance(claim, dict):
            # With it the child knows whether the lease covers the claim (services/fencing), and who handles a HandBack.
            claim["asked_at"] = getattr(message.channel, "_brpop_sent_at", None)
            if self.queue in VICTIMS:
                self._came_at = time.monotonic()
                BEGUN.set()

    @property
    def queue(self) -> str:
        """Where its message came from."""
        return str((self.delivery_info or {}).get("routing_key") or "")

    @property
    def preemptible(self) -> Preemptible:
        """What its caller said of it, else its task."""
        mesh = header_of({HEADER: self._request_dict.get(HEADER)}) or {}
        declared = getattr(self.task, "declared", {}).get("preemptible", WHEN_ASKED)
        found: Preemptible = mesh.get("preemptible", declared)
        return found

    @property
    def may_be_preempted(self) -> bool:
        """Whether it is claimed, of the background tier and not over."""
        return self.queue in VICTIMS and CLAIM_HEADER in self._request_dict and not self.acknowledged

    @property
    def is_interrupted(self) -> bool:
        """Whether its child was killed, or is to be once it begins."""
        return self._interrupted is not None

    def preempt(self, pool: Any, queue: str, *, kill: bool) -> None:
        """Have it yield to work of `queue`: at its next checkpoint, or with `kill` at once."""
        self.preempted_for = queue
        if not kill:
            self.ask_to_yield(reason_for(queue))
        elif not self.acknowledged:
            self.interrupt(pool, reason_for(queue))

    def excuse(self) -> None:
        """It need not yield any more, unless it was killed for it."""
        if self._interrupted is None:
            self.preempted_for = None
            BOARD.clear(self.message.delivery_tag)

    def ask_to_yield(self, reason: str) -> bool:
        """Ask the run to end at its next checkpoint. False when too many are asked already."""
        return BOARD.ask(self.message.delivery_tag, reason)

    def interrupt(self, pool: Any, reason: str) -> None:
        """Kill the child that runs it; the message goes to the front of its queue, not counted as a delivery."""
        self._interrupted, self._pool = reason, pool
        if self.time_start:
            pool.terminate_job(self.worker_pid, signals.SIGKILL)

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """As Celery's, but the claim is kept until the run has ended, and a run that is deaf is killed."""
        if self.time_start and self._ending is None and not self.acknowledged:
            args = (self.worker_pid, signals.SIGKILL)
            self._ending = threading.Timer(settings().script_grace_s + END_S, pool.terminate_job, args)
            self._ending.daemon = True
            self._ending.start()
        super().terminate(pool, signal)

    def drop(self, pool: Any) -> None:
        """Kill the child that runs it, and say nothing: its claim is another's by now."""
        self.acknowledged = True
        self.interrupt(pool, "claim lost")

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """As Celery's; one that was interrupted before it began ends here."""
        super().on_accepted(pid, time_accepted)
        # One that its rate limit, or a loop that hung, kept until who listens had seen nobody.
        if self.may_be_preempted and time.monotonic() - self._came_at > settings().preempt_after_s:
            BEGUN.set()
        if self._interrupted is not None:
            self._pool.terminate_job(pid, signals.SIGKILL)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """As Celery's, but for a run that yielded, and for one that was interrupted."""
        exc = exc_info.exception
        if isinstance(exc, ExceptionWithTraceback):  # a Retry has an `exc` of its own
            exc = exc.exc
        if self._ending is not None:
            self.acknowledge()
            return None
        if isinstance(exc, HandBack):
            return self._hand_back(exc.reason, counts=exc.counts and self.preempted_for is None)
        if self._interrupted is not None and not return_ok:
            if self.preempted_for is None or not self._is_done_or_told():
                return self._hand_back(self._interrupted, counts=False)
            return super().on_failure(exc_info, send_failed_event, return_ok)
        self._ended = None if isinstance(exc, (Ignore, Reject, Retry)) else states.FAILURE
        self._unfinished = Outcome.RETRY if isinstance(exc, Retry) else Outcome.IGNORED
        if isinstance(exc, MemoryError):
            # Celery ends the worker for it: but it was the job that asked for too much.
            exc_info.exception = RuntimeError(f"{type(exc).__name__}: {exc}")
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def _is_done_or_told(self) -> bool:
        """Whether a run that was killed to make room had succeeded just before: what is done is not done again.

        If not, its state is told: the child, which would have done so, is dead.
        """
        if self.ignore_result:
            return False
        if self._success_was_stored():
            return True
        self.task.backend.store_result(self.id, {"reason": self._interrupted}, PREEMPTED, request=self._context)
        return False

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """As Celery's."""
        if not soft:
            self._ended = states.FAILURE
        super().on_timeout(soft, timeout)
        if not soft and self.ignore_result:
            end_of_killed(self.id, states.FAILURE)

    def _announce_revoked(self, *args: Any, **kwargs: Any) -> None:
        self._ended = states.REVOKED
        self._announcing = True
        try:
            super()._announce_revoked(*args, **kwargs)
        finally:
            self._announcing = False

    def acknowledge(self) -> None:
        """As Celery's, with the journal's entry; nobody asks this run any more."""
        if self._ending is not None:
            if self._announcing:
                return  # its child still runs
            self._ending.cancel()
        tag, claimer = self.message.delivery_tag, getattr(self.message.channel, "claimer", None)
        BOARD.clear(tag)
        # The mesh's own periodic work would fill the journal.
        is_own = str(self.name).startswith(OWN_TASKS)
        if claimer is not None and not is_own and not self.acknowledged:
            claimer.ended(tag, self._told())
        super().acknowledge()

    def _told(self) -> Ended:
        """What is written down of the run, which ends now."""
        now = time.time()
        ran_s = max(0.0, now - self.time_start) if self.time_start else None
        told = ""
        if self._ended is not None:
            began = self.time_start or now
            entry = journal.entry(self._request_dict, queue=self.queue, worker=self.hostname, started_at=began)
            claim = self._request_dict.get(CLAIM_HEADER) or {}
            more = {"tag": self.message.delivery_tag, "deliveries": claim.get("deliveries"), "needs": self._needs}
            told = json.dumps({**entry, **more, "state": self._ended, "ran_s": ran_s})
        return Ended(told, _OUTCOMES.get(self._ended, self._unfinished), self._model, ran_s or 0.0)

    @property
    def _model(self) -> str | None:
        model = self._needs.get("model")
        return model if isinstance(model, str) else None

    @property
    def _needs(self) -> Mapping[str, Any]:
        mesh = header_of({HEADER: self._request_dict.get(HEADER)}) or {}
        return mapping(mesh.get("needs"))

    def reject(self, requeue: bool = False) -> None:
        """As Celery's; nobody asks this run any more."""
        BOARD.clear(self.message.delivery_tag)
        super().reject(requeue)

    def _hand_back(self, reason: str, *, counts: bool) -> None:
        channel, tag = self.message.channel, self.message.delivery_tag
        if getattr(channel, "claimer", None) is None:  # no claim, but a message of stock Celery's transport
            self.reject(requeue=True)
            return
        task_ready(self)
        BOARD.clear(tag)
        if self.acknowledged:
            return
        self.acknowledged = True
        channel.qos.hand_back(tag, counts=counts, preempted=self.preempted_for is not None)
        logger.info("%s handed back: %s", self.id, reason, extra={"action": "hand_back"})
        self.send_event("task-retried", exception=f"Preempted({reason!r})", traceback="")
