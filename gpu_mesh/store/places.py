"""Where a waiting task is, found without reading all that waits.

The index of waiting messages (lua/_index.lua) is by needs and age, not by task id. A process that is asked for many
tasks keeps their ages: each message is read once, and then looked up where its age puts it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import redis

from gpu_mesh.domain.queues import Band, list_names
from gpu_mesh.store import keys
from gpu_mesh.store.queues import Waiting, headers_of
from gpu_mesh.store.replies import text

__all__ = ["Place", "Places"]

#: Tasks whose ages are kept; about 10 MB.
KEPT = 50_000
#: Messages of one group that are read in one go: the youngest; what is older is searched for.
READ_AT_ONCE = 20_000
#: Members that one step of a search looks at.
SCANNED_AT_ONCE = 5_000
#: Tries to read a message while others are taken from its list.
TRIES = 5
#: Tasks in one round trip.
PIPED = 500


@dataclass(frozen=True, slots=True)
class Place:
    """A message in the index; `at` is since when it waits, s by Redis's clock."""

    group: str
    at: float
    #: Its name in its list, see lua/_index.lua.
    id: str
    deliveries: int
    tag: str

    @property
    def list(self) -> str:
        """The Redis list it lies in."""
        return self.group.split("|", 2)[2]

    @property
    def queue(self) -> str:
        """The queue of that list."""
        return keys.queue_of(self.list)

    @property
    def band(self) -> Band:
        """The band it is claimed in."""
        return Band(self.group.split("|", 2)[1])


class Places:
    """Where tasks wait. May be used by many threads at once."""

    def __init__(self, names: Sequence[str]) -> None:
        """`names`: the queues there are."""
        self._queues = tuple(names)
        self._known: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._read_upto: dict[str, str] = {}
        self._lock = threading.Lock()

    def find(self, client: redis.Redis, task_ids: Sequence[str], *, search: bool = True) -> dict[str, Place]:
        """Those that wait in the index. With `search`, also those that this process never read of."""
        found = self._look(client, task_ids)
        if missing := [task_id for task_id in task_ids if task_id not in found]:
            self._read_on(client)
            found |= self._look(client, missing)
        if search and (missing := [task_id for task_id in missing if task_id not in found]):
            self._search(client, missing)
            found |= self._look(client, missing)
        return found

    def strangers(self, client: redis.Redis, task_ids: Iterable[str]) -> dict[str, Waiting]:
        """Those whose messages lie in a list and not in the index: stock clients pushed them."""
        wanted, found = set(task_ids), {}
        names = [name for queue in self._queues for name in list_names(queue)]
        pipe = client.pipeline(transaction=False)
        for name in names:
            pipe.llen(name)
            pipe.hmget(f"{keys.PREFIX}list:{name}", "base", "top")
        told = pipe.execute(raise_on_error=False)
        for name, length, ends in zip(names, told[::2], told[1::2], strict=True):
            if isinstance(length, Exception):
                continue
            base, top = (int(end or 0) for end in ends)
            new = int(length) - (top - base)
            for raw in client.lrange(name, 0, new - 1) if new > 0 else ():
                headers = headers_of(str(raw))
                if headers.get("id") in wanted:
                    found[str(headers["id"])] = Waiting(keys.queue_of(name), 0, str(raw), headers, name)
        return found

    def envelope(self, client: redis.Redis, place: Place) -> str | None:
        """The message; None where it was taken meanwhile."""
        index = f"{keys.PREFIX}list:{place.list}"
        for _ in range(TRIES):
            base, moved = client.hmget(index, "base", f"m{place.id}")
            try:
                at = int(moved or place.id)
            except ValueError:  # it was taken: nothing says where it lay
                return None
            raw = client.lindex(place.list, int(base or 0) - at - 1)
            if raw is not None and place.tag in raw:
                return str(raw)
        return None

    def _look(self, client: redis.Redis, task_ids: Sequence[str]) -> dict[str, Place]:
        with self._lock:
            hints = [(task_id, self._known[task_id]) for task_id in task_ids if task_id in self._known]
            for task_id, _ in hints:
                self._known.move_to_end(task_id)
        found: dict[str, Place] = {}
        for start in range(0, len(hints), PIPED):
            page = hints[start : start + PIPED]
            pipe = client.pipeline(transaction=False)
            for _, (group, at) in page:
                pipe.zrangebyscore(_key(group), at, at)
            for (task_id, (group, _)), members in zip(page, pipe.execute(), strict=True):
                for member in map(text, members):
                    if (read := _read(member)) and read[0] == task_id:
                        found[task_id] = _place(group, member)
        return found

    def count(self, client: redis.Redis, before: Mapping[str, float]) -> int:
        """How many of these groups came in before a time, s by Redis's clock."""
        pipe = client.pipeline(transaction=False)
        for group, at in before.items():
            pipe.zcount(_key(group), "-inf", f"({at * 1e6:.0f}")
        return sum(map(int, pipe.execute()))

    def groups(self, client: redis.Redis, names: Sequence[str] | None = None) -> list[str]:
        """Groups of the index, of these queues or of all."""
        pipe = client.pipeline(transaction=False)
        for queue in names or self._queues:
            for band in Band:
                pipe.zrange(f"{keys.PREFIX}class:{queue}|{band.value}", 0, -1)
        return [text(group) for groups in pipe.execute() for group in groups]

    def _read_on(self, client: redis.Redis) -> None:
        """Read of what came in since the last time."""
        groups = self.groups(client)
        pipe = client.pipeline(transaction=False)
        for group in groups:
            after = self._read_upto.get(group)
            pipe.zrevrangebyscore(
                _key(group), "+inf", f"({after}" if after else "-inf", start=0, num=READ_AT_ONCE, withscores=False
            )
        pages = pipe.execute()
        with self._lock:
            self._read_upto = {group: upto for group, upto in self._read_upto.items() if group in set(groups)}
            for group, members in zip(groups, pages, strict=True):
                for member in reversed(members):
                    self._keep(group, text(member))
                if members and (newest := _read(text(members[0]))):
                    self._read_upto[group] = newest[1]

    def _keep(self, group: str, member: str) -> None:
        if read := _read(member):
            task_id, at = read
            self._known[task_id] = (group, at)
            self._known.move_to_end(task_id)
            while len(self._known) > KEPT:
                self._known.popitem(last=False)

    def _search(self, client: redis.Redis, task_ids: Sequence[str]) -> None:
        """Go through the whole index."""
        wanted = set(task_ids)
        pattern = f"* {_literal(task_ids[0])}" if len(task_ids) == 1 else None
        for group in self.groups(client):
            for member, _ in client.zscan_iter(_key(group), match=pattern, count=SCANNED_AT_ONCE):
                if (read := _read(text(member))) and read[0] in wanted:
                    with self._lock:
                        self._keep(group, text(member))


def _key(group: str) -> str:
    return f"{keys.PREFIX}group:{group}"


def _read(member: str) -> tuple[str, str] | None:
    """Task id and age of a member of a group."""
    parts = member.split(" ", 5)
    return (parts[5], parts[1]) if len(parts) == 6 else None


def _place(group: str, member: str) -> Place:
    name, at, _, deliveries, tag, _ = member.split(" ", 5)
    return Place(group, int(at) / 1e6, name, int(deliveries), tag)


def _literal(task_id: str) -> str:
    """As a pattern that matches it alone."""
    return "".join(f"\\{char}" if char in "*?[]\\^-" else char for char in task_id)
