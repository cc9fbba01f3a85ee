"""Notices on their way to channels: kept until each channel was told or is given up, whoever dies meanwhile.

One sends at a time, who holds the announcer's key; it expires with its holder. Nothing is put in where nobody has
channels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any
from uuid import uuid4

import redis

from gpu_mesh.domain.alerts import Notice
from gpu_mesh.domain.announcing import Key, Try
from gpu_mesh.store import keys
from gpu_mesh.store.replies import text
from gpu_mesh.store.scripts import script

__all__ = ["alone", "announce", "finish", "is_announced", "note", "pending", "put", "takes", "tries"]

#: Notices kept at most: what more is posted meanwhile is in the log and in the history.
KEPT = 1000
#: How long after the last announcer with channels ended notices are still kept for the next one, s.
ANNOUNCED_S = 86_400.0


def takes(client: redis.Redis) -> bool:
    """Whether a notice has a place, and somebody who sends it."""
    return is_announced(client) and int(client.hlen(keys.OUTBOX)) < KEPT


def announce(client: redis.Redis) -> None:
    """Somebody has channels."""
    kept_ms = round(ANNOUNCED_S * 1000)
    # As a rule it is known, and only renewed: that works on a Redis that is full.
    if not client.pexpire(keys.ANNOUNCED, kept_ms):
        client.set(keys.ANNOUNCED, "1", px=kept_ms)


def is_announced(client: redis.Redis) -> bool:
    """Whether it is known that somebody has channels."""
    return bool(client.exists(keys.ANNOUNCED))


def put(pipe: redis.Redis, notices: Sequence[Notice], now: float) -> None:
    """Have them sent, in this order: ids rise with the time."""
    for index, notice in enumerate(notices):
        made = replace(notice, id=f"{now * 1e6:017.0f}-{index:02}-{uuid4().hex[:6]}")
        pipe.hset(keys.OUTBOX, made.id, json.dumps(made.to_dict()))


def pending(client: redis.Redis) -> list[Notice]:
    """All of them, the oldest first. What cannot be read is dropped."""
    found = []
    for name, held in client.hgetall(keys.OUTBOX).items():
        try:
            found.append(replace(Notice.from_dict(json.loads(text(held))), id=text(name)))
        except (ValueError, TypeError, KeyError, AttributeError):
            client.hdel(keys.OUTBOX, name)
    return sorted(found, key=lambda notice: notice.id)


def tries(client: redis.Redis) -> dict[Key, Try]:
    """How it went so far, by notice and channel."""
    return {key: at for key, at in map(_try, client.hgetall(keys.TRIES).items()) if at is not None}


def note(client: redis.Redis, outcomes: Mapping[Key, Try]) -> None:
    """How a channel did with a notice."""
    told = [part for key, at in outcomes.items() for part in ("|".join(key), json.dumps(asdict(at)))]
    if told:
        # Of what was sent nothing is sent again for want of memory.
        script(client, "note")(keys=[keys.TRIES], args=told)


def finish(client: redis.Redis, ids: Sequence[str]) -> None:
    """Forget notices that nobody waits for, and how they fared."""
    if not ids:
        return
    # No transaction, which a Redis that is full refuses: the tries of a notice that is gone are dropped next time.
    client.hdel(keys.OUTBOX, *ids)
    tried = [text(name) for name in client.hkeys(keys.TRIES)]
    left = {text(name) for name in client.hkeys(keys.OUTBOX)}
    if gone := [name for name in tried if name.partition("|")[0] not in left]:
        client.hdel(keys.TRIES, *gone)


@contextmanager
def alone(client: redis.Redis, who: str, ttl_s: float) -> Iterator[bool]:
    """Whether `who` is the only one that sends, until the block ends or for `ttl_s`."""
    mine = bool(script(client, "alone")(keys=[keys.ANNOUNCER], args=[who, round(ttl_s * 1000)]))
    try:
        yield mine
    finally:
        if mine:
            script(client, "alone")(keys=[keys.ANNOUNCER], args=[who, ""])


def _try(told: tuple[Any, Any]) -> tuple[Key, Try | None]:
    notice, _, channel = text(told[0]).partition("|")
    try:
        found = dict(json.loads(text(told[1])))
        return (notice, channel), Try(**{name: found[name] for name in Try.__slots__ if name in found})
    except (ValueError, TypeError, KeyError, AttributeError):
        return (notice, channel), None
