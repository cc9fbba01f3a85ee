"""Waiting messages, read from the Redis lists a stock Celery client writes (DESIGN §4)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import redis

from gpu_mesh.domain.queues import list_names
from gpu_mesh.store import keys

__all__ = ["Waiting", "delayed", "depths", "purge_delayed", "remove", "remove_delayed", "waiting"]

#: Messages read from Redis at a time.
PAGE = 200


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that waits. `position` counts from 0 within its queue; `raw` is the stored envelope."""

    queue: str
    position: int
    raw: str
    headers: dict[str, Any]

    @property
    def id(self) -> str:
        """Task id; empty for a message that is no task."""
        return str(self.headers.get("id", ""))


def depths(client: redis.Redis, queues: Iterable[str]) -> dict[str, int]:
    """How many messages wait in each queue, over all its lists."""
    names = list(queues)
    pipe = client.pipeline(transaction=False)
    for queue in names:
        for name in list_names(queue):
            pipe.llen(name)
    counts = iter(pipe.execute())
    return {queue: sum(next(counts) for _ in list_names(queue)) for queue in names}


def waiting(client: redis.Redis, queue: str) -> Iterator[Waiting]:
    """Messages of a queue in the order stock Celery takes them. Malformed ones come with empty headers."""
    position = 0
    for name in list_names(queue):
        end = -1
        while page := client.lrange(name, end - PAGE + 1, end):
            for raw in map(str, reversed(page)):
                yield Waiting(queue, position, raw, _headers(raw))
                position += 1
            end -= PAGE


def delayed(client: redis.Redis) -> Iterator[tuple[Waiting, float]]:
    """Messages whose time has not come, the next first, each with when it is due, s since the epoch."""
    start = 0
    while page := _scored(client.zrange(keys.DELAYED, start, start + PAGE - 1, withscores=True)):
        held = client.hmget(keys.LATER, [tag for tag, _ in page])
        for index, ((_, due), text) in enumerate(zip(page, held, strict=True)):
            if text is not None:
                name, _, raw = _text(text).partition("\n")
                yield Waiting(keys.queue_of(name), start + index, raw, _headers(raw)), due
        start += PAGE


def _text(value: object) -> str:
    """A reply as text: kombu's clients do not decode theirs."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _scored(pairs: Any) -> list[tuple[str, float]]:
    return [(_text(member), float(score)) for member, score in pairs]


def remove_delayed(client: redis.Redis, message: Waiting) -> bool:
    """Take a message out whose time has not come; False when it came meanwhile."""
    tag = json.loads(message.raw)["properties"]["delivery_tag"]
    pipe = client.pipeline()
    pipe.zrem(keys.DELAYED, tag)
    pipe.hdel(keys.LATER, tag)
    return bool(pipe.execute()[0])


def purge_delayed(client: redis.Redis, queue: str) -> int:
    """Drop a queue's messages whose time has not come; how many."""
    return sum(remove_delayed(client, message) for message, _ in list(delayed(client)) if message.queue == queue)


def remove(client: redis.Redis, message: Waiting) -> bool:
    """Take a waiting message out of its queue; False when a worker was faster."""
    return any(client.lrem(name, -1, message.raw) for name in list_names(message.queue))


def _headers(raw: str) -> dict[str, Any]:
    try:
        headers = json.loads(raw)["headers"]
    except (ValueError, KeyError, TypeError):
        return {}
    return headers if isinstance(headers, dict) else {}
