"""Waiting messages, read from the Redis lists a stock Celery client writes (DESIGN §4)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import redis

from gpu_mesh.domain.queues import Band, list_names
from gpu_mesh.store import keys
from gpu_mesh.store.replies import text
from gpu_mesh.store.scripts import script

__all__ = [
    "Waiting",
    "delayed",
    "depths",
    "due_of",
    "find",
    "headers_of",
    "purge_delayed",
    "remove",
    "remove_delayed",
    "stamp_of",
    "waiting",
]

#: Messages read from Redis at a time.
PAGE = 200
#: No time is later, s since the epoch: what is has been written by somebody who meant something else.
FAR_FUTURE = 1e12
#: By what follows the queue's name in a list's.
_BANDS = {":3": Band.HIGH, ":6": Band.NORMAL, ":9": Band.LOW}


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that waits. `position` counts from 0 within its queue; `raw` is the stored envelope."""

    queue: str
    position: int
    raw: str
    headers: dict[str, Any]
    #: The Redis list it is in, or goes to when it is due.
    list: str = ""

    @property
    def id(self) -> str:
        """Task id; empty for a message that is no task."""
        return str(self.headers.get("id", ""))

    @property
    def mesh(self) -> dict[str, Any]:
        """Its `mesh` header; empty where there is none."""
        found = self.headers.get("mesh")
        return found if isinstance(found, dict) else {}

    @property
    def sent_at(self) -> float | None:
        """Since when it waits, s by its sender's clock: it was sent, or was due; None where it does not say."""
        stamp = stamp_of(self.mesh.get("sent_at"))
        return None if stamp is None else max(stamp, due_of(self.headers) or 0.0)

    @property
    def band(self) -> Band:
        """The band a claim sees: that of the priority, or of the list; without a header normal."""
        if not isinstance(self.mesh.get("needs"), dict):
            return Band.NORMAL
        return _BANDS.get(self.list.removeprefix(self.queue), Band.CRITICAL)


def depths(client: redis.Redis, queues: Iterable[str]) -> dict[str, int]:
    """How many messages wait in each queue, over all its lists. A stranger's key of a list's name holds none."""
    names = list(queues)
    pipe = client.pipeline(transaction=False)
    for queue in names:
        for name in list_names(queue):
            pipe.llen(name)
    counts = map(_length, pipe.execute(raise_on_error=False))
    return {queue: sum(next(counts) for _ in list_names(queue)) for queue in names}


def _length(told: Any) -> int:
    if isinstance(told, Exception):
        if not str(told).startswith("WRONGTYPE"):
            raise told
        return 0
    return int(told)


def waiting(client: redis.Redis, queue: str) -> Iterator[Waiting]:
    """Messages of a queue in the order stock Celery takes them. Malformed ones come with empty headers."""
    position = 0
    for name in list_names(queue):
        end = -1
        while page := client.lrange(name, end - PAGE + 1, end):
            for raw in map(str, reversed(page)):
                yield Waiting(queue, position, raw, headers_of(raw), name)
                position += 1
            end -= PAGE


def find(client: redis.Redis, queue: str, task_id: str) -> Waiting | None:
    """The message of a task that waits in a queue, or None. Decodes no others: many times faster than `waiting`."""
    wanted = json.dumps(task_id)
    for name in list_names(queue):
        end = -1
        while page := client.lrange(name, end - PAGE + 1, end):
            for raw in map(str, reversed(page)):
                if wanted in raw and (headers := headers_of(raw)).get("id") == task_id:
                    return Waiting(queue, 0, raw, headers, name)
            end -= PAGE
    return None


def delayed(client: redis.Redis) -> Iterator[tuple[Waiting, float]]:
    """Messages whose time has not come, the next first, each with when it is due, s since the epoch."""
    start = 0
    while page := _scored(client.zrange(keys.DELAYED, start, start + PAGE - 1, withscores=True)):
        held = client.hmget(keys.LATER, [tag for tag, _ in page])
        for index, ((_, due), kept) in enumerate(zip(page, held, strict=True)):
            if kept is not None:
                name, _, raw = text(kept).partition("\n")
                yield Waiting(keys.queue_of(name), start + index, raw, headers_of(raw), name), due
        start += PAGE


def stamp_of(value: object) -> float | None:
    """A time a sender wrote, s since the epoch; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < FAR_FUTURE:
        return None
    return float(value)


def due_of(headers: Mapping[str, Any]) -> float | None:
    """When a message with these headers may run, s since the epoch; None for at once."""
    eta = headers.get("eta")
    if not isinstance(eta, str):
        return None
    try:
        due = datetime.fromisoformat(eta)
    except ValueError:
        return None
    return (due if due.tzinfo else due.replace(tzinfo=UTC)).timestamp()


def _scored(pairs: Any) -> list[tuple[str, float]]:
    return [(text(member), float(score)) for member, score in pairs]


def remove_delayed(client: redis.Redis, message: Waiting) -> bool:
    """Take a message out whose time has not come; False when it came meanwhile."""
    tag = json.loads(message.raw)["properties"]["delivery_tag"]
    # No transaction, which a Redis that is full refuses: this is how room is made.
    pipe = client.pipeline(transaction=False)
    pipe.zrem(keys.DELAYED, tag)
    pipe.hdel(keys.LATER, tag)
    return bool(pipe.execute()[0])


def purge_delayed(client: redis.Redis, queue: str) -> int:
    """Drop a queue's messages whose time has not come; how many."""
    return sum(remove_delayed(client, message) for message, _ in list(delayed(client)) if message.queue == queue)


def remove(client: redis.Redis, message: Waiting) -> bool:
    """Take a waiting message out of its queue; False when a worker was faster."""
    return any(script(client, "remove")(args=[name, message.raw]) for name in list_names(message.queue))


def headers_of(raw: str) -> dict[str, Any]:
    """A message's headers; empty for what is no message."""
    try:
        headers = json.loads(raw)["headers"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return headers if isinstance(headers, dict) else {}
