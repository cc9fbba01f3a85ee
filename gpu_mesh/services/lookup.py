"""Where a task is: waiting, running, or ended; and taking it back (SPEC A1)."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import celery
from celery import states
from celery.app.task import Context

from gpu_mesh.domain.device import Device
from gpu_mesh.domain.queues import CONTROL_QUEUE, GPU_QUEUES
from gpu_mesh.domain.requirements import Requirements
from gpu_mesh.errors import InvalidTask
from gpu_mesh.services import placement
from gpu_mesh.settings import Settings
from gpu_mesh.store import journal, nodes, queues
from gpu_mesh.store.client import check_broker, connect, mapped_errors

__all__ = [
    "CANCELLED",
    "Cancelled",
    "TaskView",
    "cancel",
    "finished_tasks",
    "known_queues",
    "running_entries",
    "running_tasks",
    "waiting_tasks",
]

#: Error text of a task that was cancelled while it waited.
CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task as a list shows it. `position` counts from 0 among the waiting of its queue; times in s."""

    id: str
    name: str
    queue: str
    priority: int | None
    state: str
    worker: str | None = None
    position: int | None = None
    sent_at: float | None = None
    waited_s: float | None = None
    ran_s: float | None = None
    #: Why a waiting task cannot run now; None where it is only not its turn.
    why: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What a cancellation met: `waiting` (taken out of its queue), `running` (its run was ended), `done`
    (too late: `state` says how it ended) or `unknown` (every worker online will drop it when it comes)."""

    was: str
    state: str | None = None


def known_queues(settings: Settings) -> tuple[str, ...]:
    """Every queue of the mesh, canonical order first."""
    return (*GPU_QUEUES, CONTROL_QUEUE, *settings.cpu_queues)


def waiting_tasks(settings: Settings, queue: str | None = None) -> Iterator[TaskView]:
    """Tasks that wait, in the order of the lists, queue by queue."""
    names = [queue] if queue else known_queues(settings)
    explain = _Explainer(settings)
    with mapped_errors(settings), connect(settings) as client:
        now = float(client.time()[0])
        for name in names:
            for message in queues.waiting(client, name):
                yield _waiting_view(message, now, explain)
        for message, due in queues.delayed(client):
            if message.queue in names:
                view = _waiting_view(message, now, explain)
                yield replace(view, state="DELAYED", position=None, why=f"due in {max(0.0, due - now):.0f} s")


class _Explainer:
    """Says why a message cannot run on any device online; asks the registry once, judges each needs once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._fleet: list[Device] | None = None
        self._known: dict[str, str | None] = {}

    def why(self, queue: str, given: object) -> str | None:
        """The reasons, or None where a device fits what is `given` as needs, or the queue needs none."""
        if queue not in GPU_QUEUES or not isinstance(given, dict):
            return None
        text = json.dumps(given, sort_keys=True)
        if text not in self._known:
            if self._fleet is None:
                self._fleet = placement.online_devices(self._settings)
            try:
                needs = Requirements.of(given)
                self._known[text] = placement.unschedulable(self._settings, needs, self._fleet)
            except InvalidTask as exc:
                self._known[text] = str(exc)
        return self._known[text]


def _waiting_view(message: queues.Waiting, now: float, explain: _Explainer) -> TaskView:
    mesh = message.headers.get("mesh")
    mesh = mesh if isinstance(mesh, dict) else {}
    stamp = mesh.get("sent_at")
    sent_at = float(stamp) if isinstance(stamp, (int, float)) else None
    return TaskView(
        id=message.id or "?",
        name=str(message.headers.get("task", "?")),
        queue=message.queue,
        priority=mesh.get("priority"),
        state="WAITING",
        position=message.position,
        sent_at=sent_at,
        waited_s=None if sent_at is None else max(0.0, now - sent_at),
        why=explain.why(message.queue, mesh.get("needs")),
    )


def running_tasks(settings: Settings) -> list[TaskView]:
    """Tasks that run, longest first."""
    return [_journal_view(entry) for entry in running_entries(settings)]


def running_entries(settings: Settings) -> list[dict[str, Any]]:
    """Journal entries of what runs, longest first; without what nodes were running that are silent or gone."""
    with mapped_errors(settings), connect(settings) as client:
        running = journal.running(client)
        gone = {entry.node.name for entry in nodes.all_nodes(client) if not entry.online(settings.node_ttl_s)}
    return [entry for entry in running if str(entry.get("worker")).rpartition("@")[2] not in gone]


def finished_tasks(settings: Settings, limit: int) -> list[TaskView]:
    """The last finished tasks, newest first."""
    with mapped_errors(settings), connect(settings) as client:
        return [_journal_view(entry) for entry in journal.finished(client, limit)]


def _journal_view(entry: dict[str, Any]) -> TaskView:
    return TaskView(**{item.name: entry[item.name] for item in fields(TaskView) if item.name in entry})


def cancel(app: celery.Celery, settings: Settings, task_id: str) -> Cancelled:
    """Take a task back, wherever it is. A waiting one is marked REVOKED at once, also when no worker is online."""
    check_broker(settings)  # a result backend that is away would raise its own words
    state = app.AsyncResult(task_id).state
    if state in states.READY_STATES:
        return Cancelled("done", state)
    # Whatever its state: one that was passed on, or given back by a dead worker, waits although it was STARTED.
    with mapped_errors(settings), connect(settings) as client:
        for queue in known_queues(settings):
            for message in queues.waiting(client, queue):
                if message.id == task_id and queues.remove(client, message):
                    _mark_revoked(app, message)
                    return Cancelled("waiting")
        for message, _ in queues.delayed(client):
            if message.id == task_id and queues.remove_delayed(client, message):
                _mark_revoked(app, message)
                return Cancelled("waiting")
    app.control.revoke(task_id, terminate=True)
    return Cancelled("unknown" if state == states.PENDING else "running")


def _mark_revoked(app: celery.Celery, message: queues.Waiting) -> None:
    """Write the result a worker would have written, so that waiters, chords and callbacks hear of it."""
    envelope = json.loads(message.raw)
    args, kwargs, embed = json.loads(base64.b64decode(envelope["body"]))
    request = Context({**message.headers, **embed, "args": args, "kwargs": kwargs, "errbacks": embed.get("errbacks")})
    app.backend.mark_as_revoked(message.id, CANCELLED, request=request, store_result=True)
