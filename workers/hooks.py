"""Celery's signals, bound to what the mesh keeps: what runs now and what ran lately (store/journal).

Loaded by every worker through the app's `include`. The handlers run in the pool child that runs the job; a Redis
that is away costs them an entry in a table, never the job.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from celery import states
from celery.signals import celeryd_init, task_failure, task_postrun, task_prerun, task_revoked, worker_ready

from gpu_mesh.celery import app
from gpu_mesh.errors import MeshError
from gpu_mesh.settings import settings
from gpu_mesh.store import journal
from gpu_mesh.store.client import SOCKET_TIMEOUT_S, mapped_errors, process_client
from gpu_mesh.tasks.options import HEADER
from workers.steps import Claiming, Leasing

__all__ = ["journal_end", "journal_killed", "journal_revoked", "journal_start"]

logger = logging.getLogger(__name__)

app.steps["worker"].add(Leasing)
app.steps["consumer"].add(Claiming)

#: Kombu's `retry_over_time` without an end; pauses in s.
RESULT_RETRY = {"max_retries": None, "interval_start": 0, "interval_step": 0.2, "interval_max": 1.0}
#: Of a worker's own sends (a chain's next link, a retry, a part): an hour, for a chain that breaks is work lost.
SEND_RETRY = {**RESULT_RETRY, "max_retries": 3600}
#: A journal entry may hold up its job by this much, s.
JOURNAL_TIMEOUT_S = 1.0


def _entry(task: Any) -> dict[str, Any]:
    request = task.request
    mesh = request.get(HEADER) or {}
    delivery = request.delivery_info or {}
    sent_at = mesh.get("sent_at") if isinstance(mesh, dict) else None
    started_at = getattr(request, "mesh_started_at", None) or time.time()
    return {
        "id": request.id,
        "name": task.name,
        "queue": delivery.get("routing_key"),
        "priority": mesh.get("priority") if isinstance(mesh, dict) else None,
        "worker": request.hostname,
        "state": states.STARTED,
        "sent_at": sent_at,
        "started_at": started_at,
        "waited_s": max(0.0, started_at - sent_at) if isinstance(sent_at, (int, float)) else None,
        "ran_s": None,
    }


@celeryd_init.connect
def outlive_outages(conf: Any = None, **_: Any) -> None:
    """A worker waits for Redis as long as it takes to store a result: the job was done and must not be lost.

    What the job sends goes the same way, where a submit gives up early.
    """
    options = conf.result_backend_transport_options
    conf.result_backend_transport_options = {**options, "retry_policy": RESULT_RETRY}
    conf.task_publish_retry_policy = SEND_RETRY
    timeouts = {"socket_timeout": SOCKET_TIMEOUT_S, "socket_connect_timeout": SOCKET_TIMEOUT_S}
    conf.broker_transport_options = {**conf.broker_transport_options, **timeouts}


@task_prerun.connect
def journal_start(task: Any = None, **_: Any) -> None:
    """Write down that the task runs."""
    if task.request.is_eager:
        return
    entry = _entry(task)
    task.request.mesh_started_at = entry["started_at"]
    _write(journal.task_started, entry)


@task_postrun.connect
def journal_end(task: Any = None, state: str | None = None, **_: Any) -> None:
    """Write down how the task ended, if it did."""
    # Without a state the process is being ended: its parent knows why, and writes it down.
    if task.request.is_eager or state is None:
        return
    if state not in states.READY_STATES:
        _write(journal.task_left, task.request.id)
        return
    entry = _entry(task)
    entry |= {"state": state, "ran_s": max(0.0, time.time() - entry["started_at"])}
    _write(journal.task_finished, entry)


@task_revoked.connect
def journal_revoked(request: Any = None, **_: Any) -> None:
    """Write down that a run was ended from outside: the parent says so, its child cannot."""
    _write(journal.task_lost, request.id, states.REVOKED, time.time())


@task_failure.connect
def journal_killed(sender: Any = None, task_id: str = "", **_: Any) -> None:
    """Write down that a run died with its child, by its time limit or by itself."""
    # Of a run that fails alive, `journal_end` hears next.
    if not sender.request.is_eager and getattr(sender.request, "mesh_started_at", None) is None:
        _write(journal.task_lost, task_id, states.FAILURE, time.time())


@worker_ready.connect
def journal_reset(sender: Any = None, **_: Any) -> None:
    """Forget what a predecessor of that name left running."""
    _write(journal.clear_running, sender.hostname)


def _write(what: Any, *args: Any) -> None:
    try:
        with mapped_errors(settings()):
            what(process_client(os.getpid(), JOURNAL_TIMEOUT_S), *args)
    except MeshError as exc:
        logger.warning("journal entry lost: %s", exc, extra={"action": "journal"})
