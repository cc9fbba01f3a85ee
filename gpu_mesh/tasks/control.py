"""The mesh's own periodic work. It runs on the control worker, which needs no device (SPEC Q6)."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from celery import current_task, shared_task
from celery.signals import worker_ready

from gpu_mesh.domain.queues import CONTROL_QUEUE
from gpu_mesh.domain.untyped import number
from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.services.availability import reconcile as refuse
from gpu_mesh.services.fleet import reconcile as judge_fleet
from gpu_mesh.services.health import reconcile as check
from gpu_mesh.services.ticks import timed
from gpu_mesh.services.windows import reconcile
from gpu_mesh.settings import settings
from gpu_mesh.store import nodes, ranking
from gpu_mesh.store.beat import DUE
from gpu_mesh.store.client import connect, kept_client, mapped_errors

__all__ = ["availability", "begin", "health", "line", "stats", "tidy", "windows"]

logger = logging.getLogger(__name__)

#: Without events, which would cost as much as the work and bury an application's tasks in Flower.
own_task = partial(shared_task, queue=CONTROL_QUEUE, ignore_result=True, send_events=False)


@own_task(name="mesh.tidy")
def tidy() -> dict[str, Any]:
    """Drop what nobody needs any more: nodes silent for a week (their names), needs that no message has (how many)."""
    with _timed("tidy"), mapped_errors(settings()), connect(settings()) as client:
        return {"nodes": nodes.forget_silent(client), "needs": ranking.prune_needs(client)}


@own_task(name="mesh.windows")
def windows() -> None:
    """Bring windows and pauses in line with the clock; this node's peak hours are the mesh's."""
    with _timed("windows"), mapped_errors(settings()):
        reconcile(kept_client(settings()), settings(), leads=True)


@own_task(name="mesh.availability", bind=True)
def availability(self: Any) -> None:
    """Fail the realtime AI work that waits while nobody can do it: sent by workers/keeper, which looks whether so."""
    with _timed("availability"):
        refuse(self.app, settings())


@own_task(name="mesh.health", bind=True)
def health(self: Any) -> None:
    """Check all nodes, devices and watched addresses, then judge the mesh as a whole."""
    try:
        with _timed("health"):
            check(self.app, settings())
    finally:
        with timed(settings(), "fleet"):
            judge_fleet(settings())


@own_task(name="mesh.stats")
def stats() -> None:
    """Report what ended lately, in the log and in Redis."""
    from gpu_mesh.services.reporting import report_stats  # here: only one worker needs what it imports

    with _timed("stats"):
        report_stats(settings())


@own_task(name="mesh.line")
def line() -> None:
    """Say the mesh in one line of the log."""
    from gpu_mesh.services.reporting import report_line

    with _timed("line"):
        report_line(settings())


def _timed(name: str) -> AbstractContextManager[None]:
    """Counted for the metrics; with how late it began where beat sent it."""
    due = current_task.request.get(DUE) if current_task else None
    return timed(settings(), name, number(due))


@worker_ready.connect
def begin(sender: Any = None, **_: Any) -> None:
    """The control worker has started: what was missed is mended at once, whatever beat does."""
    if sender is None or CONTROL_QUEUE not in sender.app.amqp.queues.consume_from:
        return
    try:
        windows.run()
    except BrokerUnavailable as exc:
        logger.warning("windows are left to the next tick: %s", exc, extra={"action": "windows"})
