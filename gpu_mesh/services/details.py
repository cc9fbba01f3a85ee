"""Everything that is known of one task, from wherever it is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import celery
from celery import states

from gpu_mesh.errors import InvalidTask
from gpu_mesh.services import lookup
from gpu_mesh.settings import Settings
from gpu_mesh.store import dead, holders, journal, revoked
from gpu_mesh.store.client import check_broker, connect, mapped_errors
from gpu_mesh.store.queues import Waiting

__all__ = ["SHOWN", "TaskDetail", "find"]

_UNCLAIMED = (lookup.WAITING, lookup.UNSCHEDULABLE, lookup.DELAYED)
#: How much of a result or an error is shown, in characters.
SHOWN = 2000


@dataclass(frozen=True, slots=True)
class TaskDetail:
    """One task. `state` is one of `lookup` or Celery's; times in s, stamps since the epoch; None: not known.

    `position` is that of `lookup.waiting_tasks`, `deliveries` counts how often a worker was handed the task.
    """

    id: str
    state: str = states.PENDING
    name: str | None = None
    queue: str | None = None
    priority: int | None = None
    needs: dict[str, Any] = field(default_factory=dict)
    position: int | None = None
    #: Why it cannot run now, or why it is a dead letter.
    why: str | None = None
    worker: str | None = None
    #: The worker that is to take a critical task over first.
    standby: str | None = None
    deliveries: int | None = None
    retries: int | None = None
    sent_at: float | None = None
    started_at: float | None = None
    waited_s: float | None = None
    ran_s: float | None = None
    #: Whether it was taken back.
    cancelled: bool = False
    result: str | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return asdict(self)


def find(app: celery.Celery, settings: Settings, task_id: str) -> TaskDetail:
    """What is known of a task. Raises InvalidTask when nothing is, BrokerUnavailable."""
    check_broker(settings)  # a result backend that is away would raise its own words
    found = _ended(app, TaskDetail(id=task_id))
    with mapped_errors(settings), connect(settings) as client:
        found = replace(found, cancelled=revoked.contains(client, task_id))
        ran = next((entry for entry in journal.running(client) if entry.get("id") == task_id), None)
        ran = ran or next((entry for entry in journal.finished(client) if entry.get("id") == task_id), None)
        held = holders.find(client, task_id)
        letter = next((letter for letter in dead.letters(client) if letter.id == task_id), None)
    if ran is not None:
        found = _journalled(found, ran)
    if held is not None:
        found = replace(
            _sent(found, held.headers), worker=held.worker, standby=held.standby, deliveries=held.deliveries
        )
    elif found.state not in states.READY_STATES and (waits := lookup.find_waiting(settings, task_id)):
        found = _waiting(found, *waits)
    if letter is not None and held is None and found.state not in _UNCLAIMED:
        found = replace(
            found,
            state=lookup.DEAD,
            queue=letter.queue,
            why=letter.why,
            worker=letter.worker,
            deliveries=letter.deliveries,
        )
    if found == TaskDetail(id=task_id):
        raise InvalidTask(
            "task_id", task_id, "no such task: it neither waits nor runs, and no result of it is kept (any more)"
        )
    return found


def _ended(app: celery.Celery, found: TaskDetail) -> TaskDetail:
    """State, and result or error, as the result backend has them."""
    meta = app.backend.get_task_meta(found.id)
    state, value = str(meta["status"]), meta.get("result")
    told: dict[str, Any] = {"state": state}
    if state == states.SUCCESS:
        told["result"] = _short(json.dumps(value, default=str))
    elif state in states.EXCEPTION_STATES:
        told["error"] = _short(f"{type(value).__name__}: {value}")
    for name in ("name", "worker", "retries", "queue"):
        told[name] = meta.get(name)
    return replace(found, **told)


def _journalled(found: TaskDetail, entry: Mapping[str, Any]) -> TaskDetail:
    """With what the workers wrote down of its run."""
    known = ("name", "queue", "priority", "worker", "sent_at", "started_at", "waited_s", "ran_s")
    return replace(found, **{name: entry[name] for name in known if entry.get(name) is not None})


def _sent(found: TaskDetail, headers: Mapping[str, Any]) -> TaskDetail:
    """With what its message says."""
    mesh = headers.get("mesh")
    mesh = mesh if isinstance(mesh, dict) else {}
    needs = mesh.get("needs")
    return replace(
        found,
        name=found.name or headers.get("task"),
        queue=mesh.get("class") or found.queue,
        priority=mesh.get("priority", found.priority),
        needs=needs if isinstance(needs, dict) else {},
        retries=headers.get("retries", found.retries),
        sent_at=mesh.get("sent_at", found.sent_at),
    )


def _waiting(found: TaskDetail, view: lookup.TaskView, message: Waiting) -> TaskDetail:
    """It waits, whatever its state says: one that was given back waits although it was started once."""
    told = _sent(found, message.headers)
    return replace(
        told,
        state=view.state,
        queue=view.queue,
        position=view.position,
        why=view.why,
        worker=None,
        started_at=None,
        ran_s=None,
        waited_s=view.waited_s,
    )


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text)} characters)"
