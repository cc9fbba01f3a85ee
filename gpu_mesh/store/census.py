"""Figures of the mesh as a whole, each in one cheap look: what the fleet's alerts are judged by (services/fleet)."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import redis

from gpu_mesh.store import journal, keys
from gpu_mesh.store.replies import text
from gpu_mesh.store.scripts import script

__all__ = ["Group", "Memory", "Outcomes", "dead_lately", "groups", "memory", "outcomes"]

#: Entries of the journal read at first; four times as many with each further look.
PAGE = 200
FAILED = "FAILURE"


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How tasks ended lately: how many, and of those that failed how many by name."""

    total: int
    failed: dict[str, int]


@dataclass(frozen=True, slots=True)
class Group:
    """Messages that wait in a queue with the same needs (JSON)."""

    queue: str
    needs: str
    count: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Redis's memory, bytes; `limit` is its machine's where no maxmemory `is_set`, 0 where it is not told."""

    used: int
    limit: int
    is_set: bool


def outcomes(client: redis.Redis, since: float) -> Outcomes:
    """Of tasks that ended after `since`, s since the epoch, as far as the journal goes back."""
    limit, found = PAGE, journal.finished(client, PAGE)
    while len(found) == limit and _ended_at(found[-1]) >= since:
        limit *= 4
        more = journal.finished(client, limit)
        if len(more) == len(found):
            break
        found = more
    lately = [entry for entry in found if _ended_at(entry) >= since]
    failed = Counter(str(entry.get("name")) for entry in lately if entry.get("state") == FAILED)
    return Outcomes(len(lately), dict(failed))


def dead_lately(client: redis.Redis, within_s: float, limit: int) -> tuple[list[tuple[str, str]], int]:
    """Queue and reason of the dead letters of the last `within_s`, the newest `limit` at most; and how many there are
    of any age."""
    total, *heads = script(client, "buried")(args=[within_s, limit])
    found = []
    for head in heads:
        try:
            told = json.loads(text(head))
            found.append((keys.queue_of(str(told["list"])), str(told["why"])))
        except (ValueError, KeyError, TypeError):
            continue
    return found, int(total)


def groups(client: redis.Redis, older_s: float, limit: int) -> list[Group]:
    """What waits for longer, by queue and needs, `limit` groups at most; without what needs nothing."""
    told = script(client, "groups")(args=[limit, round(older_s * 1e6)])
    rows = zip(*(told[i::3] for i in range(3)), strict=True)
    return [Group(keys.queue_of(text(name)), text(needs), int(count)) for name, needs, count in rows]


def memory(client: redis.Redis) -> Memory | None:
    """None where it does not tell us."""
    try:
        told: dict[str, Any] = client.info("memory")
    except redis.ResponseError:
        return None
    limit = int(told.get("maxmemory") or 0)
    return Memory(int(told.get("used_memory") or 0), limit or int(told.get("total_system_memory") or 0), limit > 0)


def _ended_at(entry: dict[str, Any]) -> float:
    return float(entry.get("started_at") or 0.0) + float(entry.get("ran_s") or 0.0)
