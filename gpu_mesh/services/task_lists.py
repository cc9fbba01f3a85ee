"""Lists of tasks a page at a time, while tasks come, move on and end (SPEC A1).

A page says where the next begins. Whatever is active from the first page's request to the last one's is on one page at
least, perhaps on two: tasks move from the delayed to the waiting to the running ones, in which order these are read,
and those that move back were running when the first page was made. One that is claimed, fails and waits for its next
try within these milliseconds is met by another look at the delayed ones, and, where all is read in one go, at what came
into the lists meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, count
from typing import Any, TypeAlias

from gpu_mesh.domain.queues import OWN_TASKS, list_names
from gpu_mesh.domain.untyped import number
from gpu_mesh.errors import InvalidTask
from gpu_mesh.services.explaining import Explainer
from gpu_mesh.services.lookup import DELAYED, known_queues, still_running
from gpu_mesh.settings import Settings
from gpu_mesh.store import journal, listing, nodes, queues
from gpu_mesh.store.client import mapped_errors

__all__ = ["Filter", "Page", "Row", "active", "completed"]

#: Messages read in one go.
PAGE = 500
#: How far the clocks of two nodes may be apart, s: tasks are listed in the order in which Redis heard of their ends.
SKEW_S = 300.0

#: Where a page begins: the part of the list, and a place in it.
Cursor: TypeAlias = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Row:
    """A task in a list. Times in s, stamps since the epoch; None: not known, or does not apply."""

    id: str
    name: str | None
    state: str
    queue: str | None
    priority: int | None
    worker: str | None = None
    why: str | None = None
    sent_at: float | None = None
    due_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    waited_s: float | None = None
    ran_s: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which tasks are wanted; None: whichever."""

    state: str | None = None
    queue: str | None = None
    name: str | None = None
    worker: str | None = None
    node: str | None = None
    #: Ended since then, s since the epoch.
    since: float | None = None

    def takes(self, row: Row) -> bool:
        """Whether this is one; never the mesh's own periodic work."""
        return (
            not (row.name or "").startswith(OWN_TASKS)
            and self.state in (None, row.state)
            and self.queue in (None, row.queue)
            and self.name in (None, row.name)
            and self.worker in (None, row.worker)
            and self.node in (None, (row.worker or "").rpartition("@")[2])
            and (self.since is None or (row.ended_at or 0.0) >= self.since)
        )


@dataclass(frozen=True, slots=True)
class Page:
    """`rows` by task id; `next`: where the next page begins, None at the end."""

    rows: dict[str, Row]
    next: Cursor | None


#: One step of a walk: a row, or nothing for what is no task, and where to go on behind it.
_Step: TypeAlias = tuple[Row | None, Cursor]


def active(client: Any, settings: Settings, wanted: Filter, limit: int | None, after: Cursor = ()) -> Page:
    """What runs, is delayed or waits. Raises InvalidTask for a cursor that is none, BrokerUnavailable."""
    with mapped_errors(settings):
        found = _Active(client, settings, wanted)
        steps = found.walk(after)
        return _page(steps if limit is not None else chain(steps, found.since()), wanted, limit)


def completed(client: Any, settings: Settings, wanted: Filter, limit: int, after: Cursor = ()) -> Page:
    """What ended lately, newest first; of a task that ran several times its last run."""
    with mapped_errors(settings):
        return _page(_ended(client, wanted, after), wanted, limit)


def _page(steps: Iterator[_Step], wanted: Filter, limit: int | None) -> Page:
    rows: dict[str, Row] = {}
    for row, then in steps:
        if row is not None and wanted.takes(row):
            rows.setdefault(row.id, row)
            if limit is not None and len(rows) >= limit:
                return Page(rows, then)
    return Page(rows, None)


#: What a cursor holds, by the part it is in.
_ACTIVE: Mapping[str, tuple[Any, ...]] = {
    "running": (str,),
    "delayed": (float, str),
    "waiting": (int, int),
    "at last": (str,),
    "late": (float, str),
}
_COMPLETED: Mapping[str, tuple[Any, ...]] = {"completed": (int, str, float | None)}
#: No place is larger.
_LARGEST = 2**53


def _checked(after: Cursor, kinds: Mapping[str, tuple[Any, ...]]) -> Cursor:
    """A cursor as we wrote it. Raises InvalidTask."""
    if not after:
        return after
    wanted = kinds.get(after[0]) if isinstance(after[0], str) else None
    is_sound = wanted is not None and len(wanted) == len(after) - 1 and all(map(isinstance, after[1:], wanted))
    if not is_sound or any(isinstance(item, int | float) and not abs(item) <= _LARGEST for item in after[1:]):
        raise InvalidTask("cursor", list(after), "the `next` of the page before, as it was given")
    return after


class _Active:
    def __init__(self, client: Any, settings: Settings, wanted: Filter) -> None:
        self._client, self._settings = client, settings
        self._explain, self._now = Explainer(settings), time.time()
        names = known_queues(settings)
        #: Of each list that held something, by its place: where that began and ended.
        self._read: dict[int, tuple[int, int]] = {}
        self._lists = [name for queue in names if wanted.queue in (None, queue) for name in list_names(queue)]

    def walk(self, after: Cursor) -> Iterator[_Step]:
        parts: list[tuple[str, Callable[..., Iterator[_Step]]]] = [
            ("running", self._running),
            ("delayed", self._delayed),
            ("waiting", self._waiting),
            ("at last", self._running),
            ("late", self._delayed),
        ]
        first, *place = _checked(after, _ACTIVE) or ("running",)
        begun = False
        for name, steps in parts:
            if begun or name == first:
                yield from steps(name, *(() if begun else place))
                begun = True

    def since(self) -> Iterator[_Step]:
        """What came into the lists since `walk` read them, at either end, or was claimed from there since."""
        for index, name in enumerate(self._lists):
            known = self._read.get(index)
            ends: list[tuple[int | None, int | None]] = (
                [(None, None)] if known is None else [(None, known[0]), (known[1], None)]
            )
            for place, upto in ends:
                at = place
                while True:
                    messages, at = listing.page(self._client, name, at, PAGE)
                    new = [(its, message) for its, message in messages if upto is None or its < upto]
                    yield from ((self._waits(message), ("waiting", index, its + 1)) for its, message in new)
                    if at is None or len(new) < len(messages):
                        break
        yield from self._running("at last")

    def _running(self, part: str, after: str = "") -> Iterator[_Step]:
        entries = still_running(self._client, self._settings, nodes.all_nodes(self._client))
        for entry in sorted(entries, key=lambda one: str(one["id"])):
            if str(entry["id"]) > after:
                yield _journalled(entry, self._now), (part, str(entry["id"]))

    def _delayed(self, part: str, due: float = 0.0, tag: str = "") -> Iterator[_Step]:
        while page := listing.delayed(self._client, due, tag, PAGE):
            for message, due, tag in page:
                row = self._row(message, DELAYED, due_at=due, why=f"due in {max(0.0, due - self._now):.0f} s")
                yield row, (part, due, tag)

    def _waiting(self, part: str, number: int = 0, place: int | None = None) -> Iterator[_Step]:
        for index in range(max(0, number), len(self._lists)):
            at = place if index == number else None
            while True:
                messages, at = listing.page(self._client, self._lists[index], at, PAGE)
                if messages:
                    first, _ = self._read.get(index, (messages[0][0], 0))
                    self._read[index] = first, messages[-1][0] + 1
                for its, message in messages:
                    yield self._waits(message), (part, index, its + 1)
                if at is None:
                    break

    def _waits(self, message: queues.Waiting) -> Row | None:
        needs = message.mesh.get("needs")
        was_preempted = self._explain.was_preempted(message)
        state, why = self._explain.standing(message.queue, needs, was_preempted=was_preempted)
        return self._row(message, state, why=why)

    def _row(self, message: queues.Waiting, state: str, **told: Any) -> Row | None:
        if not message.id:
            return None
        name, priority = message.headers.get("task"), message.mesh.get("priority")
        since = message.sent_at  # or was due
        return Row(
            id=message.id,
            name=None if name is None else str(name),
            state=state,
            queue=message.queue,
            priority=priority if isinstance(priority, int) else None,
            sent_at=number(message.mesh.get("sent_at")),
            waited_s=None if since is None or state == DELAYED else max(0.0, self._now - since),
            **told,
        )


def _journalled(entry: Mapping[str, Any], now: float | None = None) -> Row | None:
    """Of a journal's entry; `now` where it runs still."""
    if not entry.get("id"):
        return None
    began, ran_s = number(entry.get("started_at")), number(entry.get("ran_s"))
    if now is not None and began is not None:
        ran_s = max(0.0, now - began)
    name, queue, worker = (
        None if (value := entry.get(field)) is None else str(value) for field in ("name", "queue", "worker")
    )
    priority = entry.get("priority")
    return Row(
        id=str(entry["id"]),
        name=name,
        queue=queue,
        worker=worker,
        state=str(entry.get("state")),
        priority=priority if isinstance(priority, int) else None,
        sent_at=number(entry.get("sent_at")),
        started_at=began,
        ended_at=began + ran_s if now is None and began is not None and ran_s is not None else None,
        waited_s=number(entry.get("waited_s")),
        ran_s=ran_s,
    )


def _ended(client: Any, wanted: Filter, after: Cursor) -> Iterator[_Step]:
    """A cursor is the place of the last entry, its task and when that began: entries only move away from the head."""
    _, first, *last = _checked(after, _COMPLETED) or ("completed", 0)
    met = not last
    for start in count(max(0, first), PAGE):
        page = journal.page(client, start, PAGE)
        for index, entry in enumerate(page, start):
            its = [entry.get("id"), entry.get("started_at")]
            if met:
                yield _journalled(entry), ("completed", index, *its)
            met = met or its == last
        ends = [row.ended_at for row in map(_journalled, page) if row is not None and row.ended_at is not None]
        if len(page) < PAGE or (wanted.since is not None and ends and max(ends) < wanted.since - SKEW_S):
            return
