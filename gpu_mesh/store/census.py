"""Figures of the mesh as a whole, each in one cheap look: what the fleet's alerts are judged by (services/fleet)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import redis

from gpu_mesh.store import journal, keys
from gpu_mesh.store.replies import text
from gpu_mesh.store.scripts import script

__all__ = ["Group", "Memory", "dead_lately", "failed_names", "grace_until", "groups", "is_full", "memory", "memory_of"]

FAILED = "FAILURE"


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


def failed_names(client: redis.Redis, since: float) -> dict[str, int]:
    """Tasks that failed after `since`, s since the epoch, by name, as far as the journal goes back."""
    found = (one for one in journal.finished(client) if one.get("state") == FAILED and _ended_at(one) >= since)
    return dict(Counter(str(one.get("name")) for one in found))


def grace_until(client: redis.Redis) -> float:
    """Until when nobody counts as gone, for Redis was away; s since the epoch, 0 where it never was."""
    try:
        return float(client.get(keys.GRACE) or 0) / 1e6
    except ValueError:
        return 0.0


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


def is_full(client: redis.Redis) -> bool:
    """Whether Redis refuses what needs memory."""
    told = memory(client)
    return told is not None and told.is_set and told.used >= told.limit


def memory(client: redis.Redis) -> Memory | None:
    """None where it does not tell us."""
    try:
        told: dict[str, Any] = client.info("memory")
    except redis.ResponseError:
        return None
    return memory_of(told)


def memory_of(told: Mapping[str, Any]) -> Memory:
    """The same, of what INFO says."""
    limit = int(told.get("maxmemory") or 0)
    return Memory(int(told.get("used_memory") or 0), limit or int(told.get("total_system_memory") or 0), limit > 0)


def _ended_at(entry: dict[str, Any]) -> float:
    return float(entry.get("started_at") or 0.0) + float(entry.get("ran_s") or 0.0)
