"""Where one task is and how it ended: what is cheap first, nothing read whole. A process that is asked often keeps one
Tracker; `find` is for who asks once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import celery
from celery import states

from gpu_mesh.domain import claim
from gpu_mesh.domain.queues import Band
from gpu_mesh.domain.untyped import mapping, number
from gpu_mesh.errors import InvalidTask
from gpu_mesh.services.explaining import Explainer
from gpu_mesh.services.lookup import DEAD, DELAYED, known_queues
from gpu_mesh.services.task_state import TaskState, progress_of
from gpu_mesh.settings import Settings
from gpu_mesh.store import dead, holders, journal, keys, preemption, queues, revoked
from gpu_mesh.store.client import check_broker, connect, mapped_errors
from gpu_mesh.store.delays import Delays
from gpu_mesh.store.places import Place, Places

__all__ = ["UNKNOWN", "Tracker", "find"]

#: What is said of a task's id that nothing is known of.
UNKNOWN = "no such task: it neither waits nor runs, and no result of it is kept (any more)"
#: How long what the fleet looks like is taken for true, s: it explains why tasks wait.
EXPLAINED_S = 1.0


def find(app: celery.Celery, settings: Settings, task_id: str) -> TaskState:
    """What is known of a task. Raises InvalidTask when nothing is, BrokerUnavailable."""
    check_broker(settings)  # a result backend that is away would raise its own words
    with mapped_errors(settings), connect(settings) as client:
        found = Tracker(app, settings, client).find(task_id)
    if found is None:
        raise InvalidTask("task_id", task_id, UNKNOWN)
    return found


class Tracker:
    """One process's eyes. May be used by many threads at once."""

    def __init__(self, app: celery.Celery, settings: Settings, client: Any) -> None:
        self._app, self._settings, self._client = app, settings, client
        self._names = known_queues(settings)
        self._places, self._delays = Places(self._names), Delays()
        self._rules = claim.Rules(horizon_s=settings.aging_horizon_s)
        self._headers: dict[str, Mapping[str, Any]] = {}
        self._explained: tuple[float, Explainer] | None = None
        self._lock = threading.Lock()

    def find(self, task_id: str) -> TaskState | None:
        """What is known of a task; None where nothing is. Raises BrokerUnavailable."""
        with mapped_errors(self._settings):
            # What moves on while we look is met at the second look.
            return self._find(task_id) or self._find(task_id, search=False)

    def find_all(self, task_ids: Iterable[str]) -> dict[str, TaskState]:
        """What is known of each, without those of which nothing is. What waits is searched once for all of them."""
        with mapped_errors(self._settings):
            looks = {task_id: self._find(task_id, search=False) for task_id in task_ids}
            if missing := [task_id for task_id, found in looks.items() if found is None]:
                self._places.find(self._client, missing)
                looks |= {task_id: self._find(task_id, search=False) for task_id in missing}
        return {task_id: found for task_id, found in looks.items() if found is not None}

    def _find(self, task_id: str, *, search: bool = True) -> TaskState | None:
        found = self._told(TaskState(id=task_id))
        cancelled = revoked.contains(self._client, task_id)
        found = replace(found, cancelled=cancelled)
        if found.has_ended:
            return self._ended(found)
        if (state := self._active(found, search=search)) is not None:
            return state
        if (state := self._dead(found)) is not None:
            return state
        ended = self._journalled(found)
        if ended != found or found.state != states.PENDING or cancelled:
            return ended
        return None

    def _ended(self, found: TaskState) -> TaskState:
        """With what is known of its last run. The result comes first: a moment later the worker writes down that it
        ended, and lets go of its claim in the same step."""
        ended = self._journalled(found)
        if ended.started_at is None:
            held = holders.find(self._client, found.id)
            ended = self._journalled(found) if held is None else self._running(found, held)
        return ended

    def _active(self, found: TaskState, *, search: bool) -> TaskState | None:
        """With where it waits or runs, whatever its state says: what was given back waits although it was STARTED."""
        place = self._places.find(self._client, [found.id], search=False).get(found.id)
        if place is None and (held := holders.find(self._client, found.id)) is not None:
            return self._running(found, held)
        if place is None and search:
            place = self._places.find(self._client, [found.id]).get(found.id)
        if place is not None:
            return self._waiting(found, place)
        if (late := self._delays.find(self._client, found.id)) is not None:
            message, due = late
            told = _sent(found, message.headers)
            why = f"due in {max(0.0, due - time.time()):.0f} s"
            return replace(told, state=DELAYED, queue=message.queue, due_at=due, why=why, worker=None, started_at=None)
        if (stranger := self._places.strangers(self._client, [found.id]).get(found.id)) is not None:
            return self._explain(_sent(found, stranger.headers), stranger.queue)
        return None

    def _told(self, found: TaskState) -> TaskState:
        """State, and result or error, as the result backend has them."""
        meta = self._app.backend.get_task_meta(found.id)
        state, value = str(meta["status"]), meta.get("result")
        told: dict[str, Any] = {name: meta.get(name) for name in ("name", "worker", "retries", "queue")}
        if state == states.SUCCESS:
            told["result"] = value
        elif state in states.EXCEPTION_STATES:
            told["error"] = (type(value).__name__, str(value))
        else:
            told["progress"] = progress_of(value)
        return replace(found, state=state, **told)

    def _journalled(self, found: TaskState) -> TaskState:
        """With what the workers wrote down of its last run."""
        entry = journal.ended(self._client, found.id)
        known = ("name", "queue", "priority", "worker", "deliveries", "needs")
        times = ("sent_at", "started_at", "waited_s", "ran_s")
        told = {name: entry[name] for name in (*known, *times) if entry.get(name) is not None}
        if entry.get("tag") is not None:
            told["preemptions"] = self._preemptions(str(entry["tag"]))
        if found.state not in states.READY_STATES and entry:
            told["state"] = entry.get("state") or found.state
        return replace(found, **told)

    def _running(self, found: TaskState, held: holders.Held) -> TaskState:
        told = _sent(found, held.headers)
        sent_at, began = number(told.sent_at), held.record.claimed_at
        return replace(
            told,
            state=found.state if found.state != states.PENDING else states.STARTED,
            queue=keys.queue_of(held.record.list),
            worker=held.worker,
            standby=held.record.standby or None,
            deliveries=held.record.deliveries,
            started_at=began,
            waited_s=max(0.0, began - sent_at) if sent_at is not None else None,
            ran_s=max(0.0, time.time() - began),
            preemptions=self._preemptions(held.tag),
        )

    def _waiting(self, found: TaskState, place: Place) -> TaskState:
        told = _sent(found, self._headers_of(found.id, place))
        now = time.time()
        preemptions = self._preemptions(place.tag)
        told = replace(
            told,
            queue=place.queue,
            position=self._position(place, now),
            deliveries=place.deliveries,
            preemptions=preemptions,
            waited_s=max(0.0, now - place.at),
            worker=None,
            started_at=None,
            progress=found.progress,
        )
        return self._explain(told, place.queue)

    def _preemptions(self, tag: str) -> int:
        return preemption.times(self._client, [tag]).get(tag, 0)

    def _explain(self, found: TaskState, queue: str) -> TaskState:
        state, why = self._explainer().standing(queue, found.needs, was_preempted=bool(found.preemptions))
        return replace(found, state=state, queue=queue, why=why)

    def _explainer(self) -> Explainer:
        with self._lock:
            if self._explained is None or time.monotonic() - self._explained[0] > EXPLAINED_S:
                self._explained = time.monotonic(), Explainer(self._settings)
            return self._explained[1]

    def _headers_of(self, task_id: str, place: Place) -> Mapping[str, Any]:
        """What its message says, which never changes while it waits."""
        if (known := self._headers.get(task_id)) is not None:
            return known
        raw = self._places.envelope(self._client, place)
        headers = queues.headers_of(raw) if raw else {}
        known = {name: headers.get(name) for name in ("task", "retries", "mesh")}
        if raw:
            with self._lock:
                while len(self._headers) >= KEPT_HEADERS:
                    del self._headers[next(iter(self._headers))]
                self._headers[task_id] = known
        return known

    def _position(self, place: Place, now: float) -> int:
        """How many of its queue would be claimed before it."""
        score = claim.score(place.queue, place.band, now - place.at, self._rules)
        before = {band: self._older_than(place, band, score, now) for band in Band}
        groups = self._places.groups(self._client, [place.queue])
        return self._places.count(self._client, {group: before[Band(group.split("|", 2)[1])] for group in groups})

    def _older_than(self, place: Place, band: Band, score: float, now: float) -> float:
        """Messages of `band` that came in before this time go before `place`: a score only grows with age."""
        if band is place.band:
            return place.at
        low, high = now - 2 * self._rules.horizon_s - max(0.0, now - place.at), now
        for _ in range(50):
            middle = (low + high) / 2
            theirs = claim.score(place.queue, band, now - middle, self._rules)
            if (-theirs, middle) < (-score, place.at):
                low = middle
            else:
                high = middle
        return low

    def _dead(self, found: TaskState) -> TaskState | None:
        letter = dead.find(self._client, found.id)
        if letter is None:
            return None
        return replace(
            found,
            state=DEAD,
            queue=letter.queue,
            why=letter.why,
            worker=letter.worker,
            deliveries=letter.deliveries,
        )


#: Messages whose headers are kept.
KEPT_HEADERS = 20_000


def _sent(found: TaskState, headers: Mapping[str, Any]) -> TaskState:
    """With what its message says."""
    mesh = mapping(headers.get("mesh"))
    priority = mesh.get("priority")
    name = headers.get("task")
    retries = headers.get("retries")
    return replace(
        found,
        name=found.name or (str(name) if name is not None else None),
        priority=priority if isinstance(priority, int) else found.priority,
        needs=dict(mapping(mesh.get("needs"))),
        retries=retries if isinstance(retries, int) else found.retries,
        sent_at=number(mesh.get("sent_at")),
    )
