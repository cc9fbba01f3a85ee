"""Where a task is: waiting, running, or ended; and taking it back (SPEC A1)."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from typing import Any

import celery
from celery import states

from gpu_mesh.domain import claim
from gpu_mesh.domain.queues import CONTROL_QUEUE, GPU_QUEUES
from gpu_mesh.services.explaining import UNSCHEDULABLE, WAITING, Explainer
from gpu_mesh.services.revoking import CANCELLED, mark_revoked
from gpu_mesh.settings import Settings
from gpu_mesh.store import journal, nodes, queues, revoked, server
from gpu_mesh.store.client import check_broker, connect, mapped_errors

__all__ = [
    "DEAD",
    "DELAYED",
    "UNSCHEDULABLE",
    "WAITING",
    "Cancelled",
    "TaskView",
    "cancel",
    "finished_tasks",
    "known_queues",
    "running_entries",
    "running_tasks",
    "still_running",
    "waiting_tasks",
]

#: States of tasks that no worker has, beside Celery's and those that wait: not due yet; among the dead letters.
DELAYED, DEAD = "DELAYED", "DEAD"


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task as a list shows it; times in s.

    `position` counts from 0 among the waiting of its queue, in the order in which a device that fits all of them would
    claim them (`waiting_tasks`).
    """

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
    """What a cancellation met: `waiting` (taken out of its queue), `running` (its run, or what is left of its parts,
    was ended), `done` (too late: `state` says how it ended) or `unknown` (every worker will drop it if it comes)."""

    was: str
    state: str | None = None


def known_queues(settings: Settings) -> tuple[str, ...]:
    """Every queue of the mesh, canonical order first."""
    return (*GPU_QUEUES, CONTROL_QUEUE, *settings.cpu_queues)


def waiting_tasks(settings: Settings, queue: str | None = None, limit: int | None = None) -> Iterator[TaskView]:
    """Tasks that wait, queue by queue, in each in the order of work: the best score first (domain/claim.py), among
    equals the oldest. Then those that are delayed, the next first.

    Not in the order of the Redis list: a claim from its middle puts the list's oldest element there. Age is what the
    header says, so it is off by what its sender's clock is, and time behind a gate counts as waiting here; a message
    without a header is as old as the one it came behind. Model affinity and needs are the claiming device's, and
    change what it takes first. With `limit` no more than that are kept in memory, and of 100 000 waiting all are read
    (seconds); queues behind the one that reaches it are not.
    """
    names = [queue] if queue else known_queues(settings)
    explain, rules = Explainer(settings), claim.Rules(horizon_s=settings.aging_horizon_s)
    left = limit
    with mapped_errors(settings), connect(settings) as client:
        now = server.now(client)
        for name in names:
            for position, message in enumerate(_in_order(queues.waiting(client, name), now, rules, left)):
                yield replace(_waiting_view(message, now, explain), position=position)
                left = None if left is None else left - 1
            if left is not None and left <= 0:
                return
        delayed = ((message, due) for message, due in queues.delayed(client) if message.queue in names)
        for message, due in islice(delayed, left):
            yield _delayed_view(message, due, now, explain)


def _in_order(
    messages: Iterable[queues.Waiting], now: float, rules: claim.Rules, limit: int | None
) -> list[queues.Waiting]:
    """The first `limit` of the messages of one queue in the order of work."""
    ranked = _ranked(messages, now, rules)
    best = sorted(ranked) if limit is None else heapq.nsmallest(limit, ranked)
    return [message for *_, message in best]


def _ranked(
    messages: Iterable[queues.Waiting], now: float, rules: claim.Rules
) -> Iterator[tuple[float, float, int, queues.Waiting]]:
    """What orders a message, smallest first, and the message: less its score, its age, its place."""
    before = 0.0
    for index, message in enumerate(messages):
        at = min(now, message.sent_at or before or now)
        before = max(before, at)
        yield -claim.score(message.queue, message.band, now - at, rules), at, index, message


def _delayed_view(message: queues.Waiting, due: float, now: float, explain: Explainer) -> TaskView:
    view = _waiting_view(message, now, explain)
    return replace(view, state=DELAYED, position=None, why=f"due in {max(0.0, due - now):.0f} s")


def _waiting_view(message: queues.Waiting, now: float, explain: Explainer) -> TaskView:
    mesh = message.mesh
    state, why = explain.standing(message.queue, mesh.get("needs"), was_preempted=explain.was_preempted(message))
    return TaskView(
        id=message.id or "?",
        name=str(message.headers.get("task", "?")),
        queue=message.queue,
        priority=mesh.get("priority"),
        state=state,
        position=message.position,
        sent_at=message.sent_at,
        waited_s=None if message.sent_at is None else max(0.0, now - message.sent_at),
        why=why,
    )


def running_tasks(settings: Settings) -> list[TaskView]:
    """Tasks that run, longest first."""
    return [_journal_view(entry) for entry in running_entries(settings)]


def running_entries(settings: Settings) -> list[dict[str, Any]]:
    """Journal entries of what runs, longest first; without what nodes were running that are silent or gone."""
    with mapped_errors(settings), connect(settings) as client:
        return still_running(client, settings, nodes.all_nodes(client))


def still_running(client: Any, settings: Settings, known: Iterable[nodes.NodeEntry]) -> list[dict[str, Any]]:
    """As `running_entries`, of a registry that was read already."""
    running = journal.running(client)
    gone = {entry.node.name for entry in known if not entry.online(settings.node_ttl_s)}
    return [entry for entry in running if str(entry.get("worker")).rpartition("@")[2] not in gone]


def finished_tasks(settings: Settings, limit: int) -> list[TaskView]:
    """The last finished tasks, newest first."""
    with mapped_errors(settings), connect(settings) as client:
        return [_journal_view(entry) for entry in journal.finished(client, limit)]


def _journal_view(entry: dict[str, Any]) -> TaskView:
    return TaskView(**{item.name: entry[item.name] for item in fields(TaskView) if item.name in entry})


def cancel(app: celery.Celery, settings: Settings, task_id: str) -> Cancelled:
    """Take a task back, wherever it is: no worker runs it any more, also none that joins later.

    A waiting one is marked REVOKED at once, also when no worker is online; so is one that goes on in its parts. Those
    parts that have not begun do nothing when their turn comes.
    """
    check_broker(settings)  # a result backend that is away would raise its own words
    state = app.AsyncResult(task_id).state
    if state in states.READY_STATES:
        return Cancelled("done", state)
    with mapped_errors(settings), connect(settings) as client:
        # First: what a worker takes while we look is dropped by it.
        revoked.add(client, [task_id])
        # Whatever its state: one that was passed on, or given back by a dead worker, waits although it was STARTED.
        for queue in known_queues(settings):
            message = queues.find(client, queue, task_id)
            if message is not None and queues.remove(client, message):
                mark_revoked(app, message.raw, message.headers)
                return Cancelled("waiting")
        for message, _ in queues.delayed(client):
            if message.id == task_id and queues.remove_delayed(client, message):
                mark_revoked(app, message.raw, message.headers)
                return Cancelled("waiting")
        runs = any(entry.get("id") == task_id for entry in journal.running(client))
        over = {} if runs else journal.ended(client, task_id)
    if state == states.PENDING and over.get("state") in states.READY_STATES:
        return Cancelled("done", over["state"])
    app.control.revoke(task_id, terminate=True)
    # Of a task that keeps no result, the claim alone says that it runs.
    if state == states.PENDING and not runs:
        return Cancelled("unknown")
    if not runs:
        # Its parts run under ids of their own. Whoever ends it writes the same once more, and tells chords.
        app.backend.mark_as_revoked(task_id, CANCELLED, store_result=True)
    return Cancelled("running")
