"""Realtime AI work that nobody can do is refused, not kept waiting (SPEC R4; DESIGN §7).

While no device can take ai-realtime submits are refused, and what waits there fails. A device can while its worker
lives, it is not cordoned and its engine answers; whether it is busy, or a window or a pause holds its queue back, makes
no difference. `look` is the control worker's, every EVERY_S. It fails nothing, for error callbacks are an application's
code: where something waits it says so, and `tick`, a task, does that too.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import celery

from gpu_mesh.domain import availability as domain
from gpu_mesh.domain.availability import REALTIME_QUEUE, serves_devices
from gpu_mesh.domain.holds import MESH, node_of
from gpu_mesh.errors import ServiceUnavailable
from gpu_mesh.services.gates import HEALTH, MANUAL
from gpu_mesh.services.revoking import mark_failed
from gpu_mesh.settings import Settings
from gpu_mesh.store import availability as store
from gpu_mesh.store import cordons, gates, leases, server
from gpu_mesh.store.availability import Outage
from gpu_mesh.store.client import broker_error, connect, mapped_errors
from gpu_mesh.store.queues import Waiting

__all__ = ["EVERY_S", "TOLD", "look", "nobody", "reconcile", "tick", "unavailable"]

logger = logging.getLogger(__name__)

#: How often the control worker looks, s.
EVERY_S = 5.0
#: How long a notice holds that is not renewed, s: a few looks may be late.
NOTICE_S = 4 * EVERY_S
#: How long one look goes on failing what waits, s; the next one goes on. With EVERY_S less than half of the shortest
#: patience: a pause between looks that is longer begins the watch anew.
WORK_S = 2.0
#: What whoever waits is told, as SPEC R4 has it.
TOLD = "AI service temporarily unavailable"


def unavailable(why: str) -> ServiceUnavailable:
    """The error that whoever submitted gets."""
    return ServiceUnavailable(TOLD, why)


def reconcile(app: celery.Celery, settings: Settings) -> None:
    """A tick at Redis's time. Raises BrokerUnavailable."""
    with mapped_errors(settings), connect(settings) as client:
        tick(app, client, settings, server.now(client))


def look(client: Any, settings: Settings, now: float) -> bool:
    """Have submits refused while nobody can do realtime work; whether there is something to fail, for `tick`.

    `now`: s since the epoch.
    """
    with store.alone(client) as mine:
        return mine and store.has_to_fail(client, REALTIME_QUEUE if _judge(client, settings, now)[0] else None)


def tick(app: celery.Celery, client: Any, settings: Settings, now: float) -> None:
    """Look, and fail what waits while nobody can do it. `now`: s since the epoch."""
    with store.alone(client) as mine:
        if not mine:
            return
        is_out, why = _judge(client, settings, now)
        if is_out:
            _fail_waiting(app, client, settings, why)
        else:
            _settle(app, client, settings, why)


def _judge(client: Any, settings: Settings, now: float) -> tuple[bool, str]:
    """Whether realtime work is refused from now on, and why what was set aside is."""
    why = nobody(client)
    seen = domain.look(store.watch(client), now, somebody=why is None, patience_s=settings.unavailable_after_s)
    store.set_watch(client, seen)
    before = store.outage(client)
    if seen.is_out(settings.unavailable_after_s) and why is not None:
        if before is None:
            logger.error("%s is refused: %s", REALTIME_QUEUE, why, extra={"action": "unavailable"})
        store.tell(client, Outage(seen.seen_at, why), NOTICE_S)
        return True, why
    if before is not None and why is None and store.back(client):
        logger.info("%s is taken again", REALTIME_QUEUE, extra={"action": "available"})
    return False, before.why if before else "nobody could do it"


def nobody(client: Any) -> str | None:
    """Why no device can take realtime work; None where one can, or where an operator paused it for the whole mesh."""
    held = [gate for gate in gates.all_gates(client) if gate.queue == REALTIME_QUEUE]
    if any(gate.reason == MANUAL and gate.scope == MESH for gate in held):
        return None
    living = [worker for worker in leases.living(client) if serves_devices(worker)]
    ill = {gate.scope for gate in held if gate.reason == HEALTH}
    held_off = cordons.cordoned(client)
    uncordoned = [worker for worker in living if not cordons.is_cordoned(worker, held_off)]
    if any(not {worker, node_of(worker), MESH} & ill for worker in uncordoned):
        return None
    if uncordoned:
        return "no device's engine answers"
    return "every device is cordoned" if living else "no device is there"


def _fail_waiting(app: celery.Celery, client: Any, settings: Settings, why: str) -> None:
    end, failed = time.monotonic() + WORK_S, _settle(app, client, settings, why)
    while time.monotonic() < end and store.set_aside(client, REALTIME_QUEUE):
        failed += _settle(app, client, settings, why)
    if failed:
        logger.warning("%d tasks of %s failed: %s", failed, REALTIME_QUEUE, why, extra={"action": "unavailable"})


def _settle(app: celery.Celery, client: Any, settings: Settings, why: str) -> int:
    """Tell whoever waits for what was set aside, also by a looker that died; how many."""
    count = 0
    while messages := store.refused(client):
        for message in messages:
            task_id = message.headers.get("id")
            if not isinstance(task_id, str) or not task_id:
                store.bury(client, message, REALTIME_QUEUE, server.now(client))
                continue
            _fail(app, settings, message, why)
            store.settled(client, message)
            count += 1
    return count


def _fail(app: celery.Celery, settings: Settings, message: Waiting, why: str) -> None:
    ignored = bool(message.headers.get("ignore_result"))
    try:
        mark_failed(app, message.raw, message.headers, unavailable(why), store=not ignored)
    except Exception as exc:
        if broker_error(settings, exc) is not None:
            raise
        # A callback that cannot be sent, and the like: the others are told all the same.
        logger.exception("%s: not all were told of its failure", message.id, extra={"action": "fail"})
