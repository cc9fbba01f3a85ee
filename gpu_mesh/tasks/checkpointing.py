"""What a long task does to be stopped at any time and go on later, here or elsewhere (SPEC F2, DESIGN §6, §7).

@shared_task(bind=True)
def count(self, files):
    state = self.restored or {"next": 0, "words": 0}
    for i in range(state["next"], len(files)):
        state = {"next": i + 1, "words": state["words"] + words_of(files[i])}
        self.checkpoint(state)
    return state["words"]
"""

from __future__ import annotations

import logging
from typing import Any

from celery import Task, states
from celery.exceptions import Ignore, Reject
from celery.signals import task_postrun

from gpu_mesh.domain.preemption import PREEMPTED
from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.services import checkpoints
from gpu_mesh.services.board import BOARD
from gpu_mesh.services.checkpoints import Saved
from gpu_mesh.store.claims import CLAIM_HEADER

__all__ = ["CheckpointedTask", "HandBack", "Preempted", "drop_checkpoint", "reason_for"]

logger = logging.getLogger(__name__)


def reason_for(queue: str) -> str:
    """Why a run is asked to yield to work of that queue."""
    return f"{queue} work waits"


class Preempted(BaseException):
    """The run is to end here; its task goes back to the front of its queue, and on from its checkpoint later.

    Not an Exception, so that `except Exception` lets it pass. Clean up in `finally`, or raise it again.
    """

    def __init__(self, reason: str = "", *, counts: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        #: Whether the next run is one more delivery. One that was asked to yield is not at fault.
        self.counts = counts


class HandBack(Ignore):
    """How the child tells its parent (workers/request); Celery's trace logs no error for an Ignore."""

    def __init__(self, reason: str = "", counts: bool = True) -> None:
        super().__init__(reason, counts)
        self.reason = reason
        self.counts = counts


class CheckpointedTask(Task):
    """The part of GpuTask that saves, restores and yields. Called directly or eagerly it needs no Redis."""

    abstract = True

    @property
    def restored(self) -> Any:
        """What an earlier run of this task saved last; None where there was none, or nothing saved."""
        request = self.request
        claim = _claim_of(request)
        if claim is None:
            return None
        if "mesh_restored" not in vars(request):
            try:
                request.mesh_restored = checkpoints.load(request.id)
            except BrokerUnavailable as exc:
                raise Preempted(f"its checkpoint cannot be read: {exc}", counts=False) from exc
        return request.mesh_restored

    @property
    def should_yield(self) -> bool:
        """Whether this run was asked to end soon: the next `checkpoint` will end it. Costs microseconds."""
        claim = _claim_of(self.request)
        return claim is not None and BOARD.asked(claim["tag"]) is not None

    def checkpoint(self, state: Any) -> None:
        """Save `state` (JSON, not None) for a later run, and end this one if it was asked to yield.

        Costs a round trip to Redis. A Redis that is away is logged, and the run goes on. Raises InvalidCheckpoint or
        CheckpointTooLarge before anything is saved; Preempted to end the run.
        """
        text = checkpoints.encode(state)
        request = self.request
        claim = _claim_of(request)
        if claim is None:
            return
        if "mesh_restored" not in vars(request):
            request.mesh_restored = None
        saved = checkpoints.save(request.id, claim, text, urgent=self.should_yield)
        if saved is Saved.LOST:
            logger.warning("%s: claim lost, run ended", request.id, extra={"action": "fence"})
            raise _ClaimLost
        # Asked, but not saved: it goes on, for what it reached would be lost.
        if saved is Saved.YES and (reason := BOARD.asked(claim["tag"])) is not None:
            raise Preempted(reason, counts=False)

    def _yielded(self, exc: Preempted) -> Ignore | Reject:
        """What Celery is told of a run that ended so."""
        if isinstance(exc, _ClaimLost):
            return Ignore()
        request = self.request
        logger.info("%s yields: %s", request.id, exc.reason, extra={"action": "yield"})
        ignored = self.ignore_result if request.ignore_result is None else request.ignore_result
        claim = _claim_of(request) or {}
        if not ignored and BOARD.names(claim.get("tag", "")):
            self.backend.store_result(request.id, {"reason": exc.reason}, PREEMPTED, request=request)
        elif not ignored:
            self.backend.mark_as_retry(request.id, exc, request=request)
        # An application's own request class would ack an Ignore.
        return HandBack(exc.reason, exc.counts) if "asked_at" in claim else Reject(exc.reason, requeue=True)


class _ClaimLost(Preempted):
    """The run was replaced by another worker's."""


def _claim_of(request: Any) -> dict[str, Any] | None:
    """The claim by which a worker runs this; None outside of one."""
    if request.called_directly or request.is_eager:
        return None
    claim = request.get(CLAIM_HEADER)
    return claim if isinstance(claim, dict) else None


@task_postrun.connect
def drop_checkpoint(task: Any = None, state: str | None = None, **_: Any) -> None:
    """Forget the checkpoint of a task that succeeded. After anything else it stays, until it expires."""
    if state == states.SUCCESS and isinstance(task, CheckpointedTask) and "mesh_restored" in vars(task.request):
        checkpoints.drop(task.request.id)
