"""Whether there is somebody for realtime AI work (SPEC R4): the watch, the notice that there is not, what is refused.

The notice expires unless it is renewed, so that a control worker that dies refuses nothing. Times are Redis's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import redis

from gpu_mesh.domain.availability import Watch
from gpu_mesh.domain.queues import list_names
from gpu_mesh.store import keys, queues
from gpu_mesh.store.queues import Waiting
from gpu_mesh.store.replies import text

__all__ = [
    "Outage",
    "alone",
    "back",
    "bury",
    "has_to_fail",
    "outage",
    "parse_outage",
    "parse_watch",
    "refused",
    "set_aside",
    "set_watch",
    "settled",
    "tell",
    "watch",
]

#: Messages taken out of a queue, or read, in one go.
PAGE = 100
#: How long one looker keeps others out at most, s: it may die at work.
ALONE_S = 60.0


@dataclass(frozen=True, slots=True)
class Outage:
    """Nobody can do realtime work, since then (s since the epoch), and why."""

    since: float
    why: str


def watch(client: redis.Redis) -> Watch | None:
    """What the last look knew; None where there was none, or none that can be read."""
    return parse_watch(client.get(keys.WATCH))


def parse_watch(told: Any) -> Watch | None:
    """The same, of what Redis holds."""
    try:
        found = json.loads(text(told or ""))
        return Watch(float(found["looked_at"]), float(found["seen_at"]))
    except (ValueError, TypeError, KeyError):
        return None


def set_watch(client: redis.Redis, seen: Watch) -> None:
    """Remember a look."""
    client.set(keys.WATCH, json.dumps(asdict(seen)))


def outage(client: redis.Redis) -> Outage | None:
    """The notice, while it holds."""
    return parse_outage(client.get(keys.OUTAGE))


def parse_outage(told: Any) -> Outage | None:
    """The same, of what Redis holds."""
    try:
        found = json.loads(text(told or ""))
        return Outage(float(found["since"]), str(found["why"]))
    except (ValueError, TypeError, KeyError):
        return None


def tell(client: redis.Redis, notice: Outage, ttl_s: float) -> None:
    """Have submits refused for `ttl_s`."""
    client.set(keys.OUTAGE, json.dumps(asdict(notice)), px=round(ttl_s * 1000))


def back(client: redis.Redis) -> bool:
    """Somebody is there again: submits are taken at once, and the watch begins anew. False where none were refused."""
    pipe = client.pipeline()
    pipe.delete(keys.OUTAGE)
    pipe.delete(keys.WATCH)
    return bool(pipe.execute()[0])


@contextmanager
def alone(client: redis.Redis) -> Iterator[bool]:
    """Whether this looker is the only one, until the block ends or for ALONE_S."""
    mine = bool(client.set(keys.LOOKER, "1", nx=True, px=round(ALONE_S * 1000)))
    try:
        yield mine
    finally:
        if mine:
            client.delete(keys.LOOKER)


def has_to_fail(client: redis.Redis, queue: str | None) -> bool:
    """Whether something was set aside, or waits in that queue."""
    pipe = client.pipeline(transaction=False)
    for name in (keys.REFUSED, *(list_names(queue) if queue else ())):
        pipe.llen(name)
    return any(pipe.execute())


def set_aside(client: redis.Redis, queue: str) -> int:
    """Take the oldest messages of each list of a queue out of it, to be refused; how many. They are not lost by whom
    dies before they are settled."""
    pipe = client.pipeline(transaction=False)
    for name in list_names(queue):
        for _ in range(min(PAGE, int(client.llen(name)))):
            pipe.lmove(name, keys.REFUSED, "RIGHT", "LEFT")
    return sum(moved is not None for moved in pipe.execute())


def refused(client: redis.Redis) -> list[Waiting]:
    """Messages that were set aside and are not settled yet, the oldest first."""
    found = [str(raw) for raw in client.lrange(keys.REFUSED, -PAGE, -1)]
    return [Waiting("", 0, raw, queues.headers_of(raw)) for raw in reversed(found)]


def bury(client: redis.Redis, message: Waiting, queue: str, now: float) -> None:
    """Nobody waits for it, for it names no task: put it with the dead letters."""
    entry = json.dumps({"list": queue, "why": "malformed", "at": now})
    pipe = client.pipeline()
    pipe.lpush(keys.DEAD, f"{entry}\n{message.raw}")
    pipe.lrem(keys.REFUSED, -1, message.raw)
    pipe.execute()


def settled(client: redis.Redis, message: Waiting) -> None:
    """Whoever waits for it was told: forget it."""
    client.lrem(keys.REFUSED, -1, message.raw)
