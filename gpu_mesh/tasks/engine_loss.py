"""What becomes of a job of the AI queues whose engine does not answer (SPEC R4)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celery.exceptions import Retry

from gpu_mesh.domain.availability import BATCH_QUEUE, REALTIME_QUEUE
from gpu_mesh.errors import BrokerUnavailable, EngineTimeout, EngineUnavailable, EngineUnsupported
from gpu_mesh.services import engine_health
from gpu_mesh.services.availability import unavailable
from gpu_mesh.settings import settings
from gpu_mesh.tasks.checkpointing import Preempted

if TYPE_CHECKING:
    from gpu_mesh.tasks.base import GpuTask

__all__ = ["TRIES_HEADER", "instead"]

logger = logging.getLogger(__name__)

#: Says in a message how often its task was tried again for its engine's sake.
TRIES_HEADER = "mesh_engine_tries"
#: What another try would meet again.
_LASTING = (EngineTimeout, EngineUnsupported)


def instead(task: GpuTask, exc: EngineUnavailable) -> Exception | None:
    """What ends the run instead of `exc`; None for `exc` itself.

    A job of ai-batch is sent again for later: not counted as a retry of its own, under its id, within its chord; but
    not for ever, for it may be what its engine dies of. A job of ai-realtime whose engine is silent goes to another
    device, and fails as SPEC R4 says where it was handed out before; its device takes no such work until its engine
    answers.
    """
    queue = (task.request.delivery_info or {}).get("routing_key")
    if isinstance(exc, _LASTING) or task.device is None or queue not in (REALTIME_QUEUE, BATCH_QUEUE):
        return None
    if queue == BATCH_QUEUE:
        return _later(task, exc)
    why = engine_health.silent_engine(task.device, settings())
    if why is None:
        return None
    try:
        engine_health.close(task.device, settings(), why)
    except BrokerUnavailable as error:
        logger.warning("%s stays open: %s", queue, error, extra={"action": "engine"})
    if (task.request.delivery_info or {}).get("redelivered"):
        return unavailable(why)
    back: Exception = task._yielded(Preempted(why))
    return back


def _later(task: GpuTask, exc: EngineUnavailable) -> Exception | None:
    request, pause_s = task.request, settings().engine_retry_s
    tries = _tries(request)
    if tries >= settings().engine_retries:
        logger.warning(
            "%s not again after %d tries: %s (GPU_MESH_ENGINE_RETRIES)",
            request.id,
            tries + 1,
            exc,
            extra={"action": "engine"},
        )
        return None
    # As Celery's `retry`, but the task's own retries stay what they were.
    signature = task.signature_from_request(request, countdown=pause_s, retries=request.retries)
    signature.options["headers"] = {**(signature.options.get("headers") or {}), TRIES_HEADER: tries + 1}
    try:
        signature.apply_async()
    except BrokerUnavailable as error:
        # Handed back, which waits for Redis; and counted, for one that is full would hand it out for ever.
        back: Exception = task._yielded(Preempted(str(error)))
        return back
    logger.warning("%s again in %g s: %s", request.id, pause_s, exc, extra={"action": "engine"})
    again: Exception = Retry(exc=exc, when=pause_s, sig=signature)
    return again


def _tries(request: Any) -> int:
    # A stranger may have written anything there.
    said = request.get(TRIES_HEADER)
    return said if isinstance(said, int) else 0
