"""Who holds a task's message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis

from gpu_mesh.store import claims, queues
from gpu_mesh.store.replies import text
from gpu_mesh.store.scripts import script

__all__ = ["Held", "find"]


@dataclass(frozen=True, slots=True)
class Held:
    """A claim: its worker, its record, its delivery tag, the headers of its message."""

    worker: str
    record: claims.Record
    tag: str
    headers: dict[str, Any]


def find(client: redis.Redis, task_id: str) -> Held | None:
    """The claim on a task, or None; in one round trip."""
    told = [text(part) for part in script(client, "holder")(args=[task_id])]
    if not told:
        return None
    worker, record, tag, raw = told
    return Held(worker, claims.read_record(record), tag, queues.headers_of(raw))
