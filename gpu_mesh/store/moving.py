"""Waiting messages taken out of a queue or put into another: each in one atomic step, so that a command that is
killed in the middle has lost none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import redis

from gpu_mesh.domain.queues import list_names
from gpu_mesh.store import keys, queues
from gpu_mesh.store.queues import Waiting
from gpu_mesh.store.scripts import script

__all__ = ["Counts", "count", "move", "move_delayed", "purged", "readdressed", "set_aside", "settled"]

#: Messages read or moved in one go.
PAGE = 100


@dataclass(frozen=True, slots=True)
class Counts:
    """How many messages of a queue wait, and how many will once they are due."""

    waiting: int
    delayed: int


def count(client: redis.Redis, queue: str) -> Counts:
    """What is in a queue now."""
    delayed = sum(message.queue == queue for message, _ in queues.delayed(client))
    return Counts(queues.depths(client, [queue])[queue], delayed)


def set_aside(client: redis.Redis, queue: str) -> Iterator[int]:
    """Take what waits in a queue now, also what is delayed and what is malformed, into the list of the purged.

    Yields how many, after each step; the caller marks them (`purged`, `settled`) before the next.
    """
    for name in list_names(queue):
        left = int(client.llen(name))
        while left > 0:
            pipe = client.pipeline(transaction=False)
            for _ in range(min(PAGE, left)):
                pipe.lmove(name, keys.PURGED, "RIGHT", "LEFT")
            yield sum(moved is not None for moved in pipe.execute())
            left -= PAGE
    tags = [_tag(message) for message, _ in queues.delayed(client) if message.queue == queue]
    for start in range(0, len(tags), PAGE):
        yield sum(int(script(client, "purge_delayed")(args=[tag])) for tag in tags[start : start + PAGE])


def purged(client: redis.Redis) -> list[Waiting]:
    """Messages that were purged and are not marked as revoked yet, those of an interrupted purge included."""
    return [Waiting("", 0, str(raw), queues.headers_of(str(raw))) for raw in client.lrange(keys.PURGED, -PAGE, -1)]


def settled(client: redis.Redis, message: Waiting) -> None:
    """A purged message is marked: forget it."""
    client.lrem(keys.PURGED, -1, message.raw)


def move(client: redis.Redis, queue: str, to: str, limit: int) -> Iterator[int]:
    """Move at most `limit` of the messages that wait in `queue` now, most urgent band first, in each the oldest first.

    They go behind what waits in the lists of `to`; their age is kept. Yields how many, after each step. What is
    malformed stays where it is: its next claim puts it into the dead letters.
    """
    for source, target in zip(list_names(queue), list_names(to), strict=True):
        left = int(client.llen(source))
        moved = -1
        # Again while that moved any: claims may have shifted what was looked at.
        while moved and left > 0 and limit > 0:
            moved = 0
            for step in _move_list(client, source, target, left, limit):
                moved += step
                limit -= step
                left -= step
                yield step


def _move_list(client: redis.Redis, source: str, target: str, look: int, limit: int) -> Iterator[int]:
    """One walk along the list `source` from its old end, over at most `look` messages."""
    stayed = 0
    while look > 0 and limit > 0:
        page = [str(raw) for raw in client.lrange(source, -stayed - min(PAGE, look, limit), -stayed - 1)]
        if not page:
            return
        pipe = client.pipeline(transaction=False)
        mover = script(client, "move")
        for raw in reversed(page):
            changed = readdressed(raw, keys.queue_of(target))
            if changed is None:
                stayed += 1
                continue
            text, tag, sent_at = changed
            mover(args=[source, raw, target, text, tag, sent_at], client=pipe)
        done = sum(map(int, pipe.execute()))
        look -= len(page)
        limit -= done
        yield done


def move_delayed(client: redis.Redis, queue: str, to: str, limit: int) -> int:
    """Have at most `limit` messages join `to` instead of `queue` when they are due; how many."""
    moved = 0
    names = dict(zip(list_names(queue), list_names(to), strict=True))
    for message, _ in queues.delayed(client):
        if moved >= limit:
            break
        changed = readdressed(message.raw, to) if message.queue == queue else None
        if changed is not None:
            before, after = f"{message.list}\n{message.raw}", f"{names[message.list]}\n{changed[0]}"
            moved += int(script(client, "move_delayed")(args=[changed[1], before, after]))
    return moved


def readdressed(raw: str, queue: str) -> tuple[str, str, str] | None:
    """An envelope sent to `queue` instead, its delivery tag, and when it was sent ("" when it does not say).

    Its body is not touched. None for what is no message.
    """
    try:
        envelope = json.loads(raw)
        headers, properties = envelope["headers"], envelope["properties"]
        tag, delivery = properties["delivery_tag"], properties["delivery_info"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not (isinstance(headers, dict) and isinstance(tag, str) and isinstance(delivery, dict)):
        return None
    # An exchange of ours bears its queue's name; the default one has none.
    delivery |= {"exchange": queue if delivery.get("exchange") else "", "routing_key": queue}
    mesh, sent_at = headers.get("mesh"), None
    if isinstance(mesh, dict):
        mesh["class"] = queue
        sent_at = queues.stamp_of(mesh.get("sent_at"))
    return json.dumps(envelope), tag, "" if sent_at is None else repr(sent_at)


def _tag(message: Waiting) -> str:
    return str(json.loads(message.raw)["properties"]["delivery_tag"])
