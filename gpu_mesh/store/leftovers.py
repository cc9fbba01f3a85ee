"""Messages that stock Celery workers took and never acknowledged, as kombu's Redis transport keeps them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import redis

from gpu_mesh.domain.queues import LIST_SEPARATOR, PRIORITY_STEPS
from gpu_mesh.store.scripts import script

__all__ = ["INDEX", "UNACKED", "Leftover", "leftovers", "put_back", "summary"]

#: kombu's hash: delivery tag → JSON of envelope, exchange, routing key; and zset: tag → when it was taken.
UNACKED, INDEX = "unacked", "unacked_index"
#: Between the parts of a binding as kombu keeps it: routing key, pattern, queue.
_BINDING_SEPARATOR = "\x06\x16"
#: Messages read in one go.
PAGE = 100


@dataclass(frozen=True, slots=True)
class Leftover:
    """One of them. `taken_at` is in s by its worker's clock, None where kombu kept none.

    `queue` is None for what cannot be read or is bound to no queue; then so is the rest.
    """

    tag: str
    task_id: str
    taken_at: float | None
    age_s: float | None
    queue: str | None
    #: The Redis list it goes to, and the envelope, marked as delivered before.
    list: str
    envelope: str


def summary(client: redis.Redis) -> tuple[int, float | None]:
    """How many there are, and how long ago the oldest was taken, s."""
    count = int(client.hlen(UNACKED))
    oldest = client.zrange(INDEX, 0, 0, withscores=True)
    if not count or not oldest:
        return count, None
    return count, max(0.0, float(client.time()[0]) - float(oldest[0][1]))


def leftovers(client: redis.Redis) -> Iterator[Leftover]:
    """All of them, in no order."""
    now = float(client.time()[0])
    for tag, text in client.hscan_iter(UNACKED, count=PAGE):
        taken = client.zscore(INDEX, tag)
        yield _leftover(client, str(tag), str(text), None if taken is None else float(taken), now)


def put_back(client: redis.Redis, found: Leftover) -> bool:
    """Put it back into its list, to be taken next. False when its worker, or somebody else, was faster."""
    taken = "" if found.taken_at is None else repr(found.taken_at)
    return bool(script(client, "put_back")(args=[found.tag, taken, found.list, found.envelope]))


def _leftover(client: redis.Redis, tag: str, text: str, taken: float | None, now: float) -> Leftover:
    age = None if taken is None else max(0.0, now - taken)
    try:
        envelope, exchange, routing_key = json.loads(text)
        headers, properties = envelope["headers"], envelope["properties"]
        headers["redelivered"] = properties["delivery_info"]["redelivered"] = True
        step = _step(properties.get("priority"))
        task_id = str(headers.get("id") or "")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Leftover(tag, "", taken, age, None, "", "")
    queue = _queue(client, str(exchange or ""), str(routing_key))
    name = f"{queue}{LIST_SEPARATOR}{step}" if step else str(queue)
    return Leftover(tag, task_id, taken, age, queue, name, json.dumps(envelope))


def _step(priority: Any) -> int:
    """The priority step of a message, as kombu rounds it down."""
    number = min(9, max(0, int(priority or 0)))
    return max(step for step in PRIORITY_STEPS if step <= number)


def _queue(client: redis.Redis, exchange: str, routing_key: str) -> str | None:
    """The queue an exchange's routing key leads to: kombu's default exchange, or a direct one's binding."""
    if not exchange:
        return routing_key
    for member in client.smembers(f"_kombu.binding.{exchange}"):
        parts = str(member).split(_BINDING_SEPARATOR)
        if len(parts) == 3 and parts[0] == routing_key:
            return parts[2]
    return None
