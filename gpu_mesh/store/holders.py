"""Who holds a task's message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis

from gpu_mesh.store import claims, keys, queues
from gpu_mesh.store.replies import text as as_text
from gpu_mesh.store.scripts import script

__all__ = ["Held", "Running", "find", "held"]


@dataclass(frozen=True, slots=True)
class Held:
    """A claim: its worker, the one that is to take it over first, how often the message was handed out, its headers."""

    worker: str
    standby: str | None
    deliveries: int
    headers: dict[str, Any]


def find(client: redis.Redis, task_id: str) -> Held | None:
    """The claim on a task, or None. Reads the record of every claim."""
    for worker in map(str, client.zrange(keys.LEASES, 0, -1)):
        key = keys.claims(worker)
        # Beside each claim lie its envelope and its siblings, see _let_go.lua.
        tags = [tag for tag in map(str, client.hkeys(key)) if tag[0] not in "=+"]
        for tag, text in zip(tags, client.hmget(key, tags) if tags else (), strict=True):
            record = claims.read_record(str(text)) if text else None
            if record is not None and record.task_id == task_id:
                headers = queues.headers_of(str(client.hget(key, f"={tag}") or ""))
                return Held(worker, record.standby or None, record.deliveries, headers)
    return None


@dataclass(frozen=True, slots=True)
class Running:
    """A claim: its worker, its record, its delivery tag, the headers of its message."""

    worker: str
    record: claims.Record
    tag: str
    headers: dict[str, Any]


def held(client: redis.Redis, task_id: str) -> Running | None:
    """The claim on a task, or None; in one round trip."""
    told = [as_text(part) for part in script(client, "holder")(args=[task_id])]
    if not told:
        return None
    worker, record, tag, raw = told
    return Running(worker, claims.read_record(record), tag, queues.headers_of(raw))
