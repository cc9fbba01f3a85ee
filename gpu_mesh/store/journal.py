"""What runs now and what ran lately: the read side of every task table.

What runs is what is claimed, so it is never wrong for longer than a lease. One entry is a JSON object: id, name, queue,
priority, worker, state, sent_at, started_at (s since the epoch), waited_s, ran_s, deliveries and tag, its delivery tag;
of one that runs also siblings and standby, of one that ended its needs.
"""

from __future__ import annotations

import json
import logging
from typing import Any

import redis

from gpu_mesh.store import claims, keys
from gpu_mesh.store.replies import text
from gpu_mesh.store.scripts import script

__all__ = ["ended", "entry", "finished", "page", "running"]

logger = logging.getLogger(__name__)

#: Workers that are asked for in one go.
AT_ONCE = 50


def entry(headers: dict[str, Any], *, queue: str, worker: str, started_at: float) -> dict[str, Any]:
    """The entry of a run that began at `started_at`."""
    mesh = headers.get("mesh")
    mesh = mesh if isinstance(mesh, dict) else {}
    sent_at = mesh.get("sent_at")
    return {
        "id": headers.get("id"),
        "name": headers.get("task"),
        "queue": queue,
        "priority": mesh.get("priority"),
        "worker": worker,
        "state": "STARTED",
        "sent_at": sent_at,
        "started_at": started_at,
        "waited_s": max(0.0, started_at - sent_at) if isinstance(sent_at, (int, float)) else None,
        "ran_s": None,
    }


def running(client: redis.Redis) -> list[dict[str, Any]]:
    """What runs now, longest first."""
    found = []
    for workers in _pages(sorted(map(text, client.zrange(keys.LEASES, 0, -1)))):
        told = [text(part) for part in script(client, "running")(args=workers)]
        for worker, record, siblings, raw in zip(*(told[i::4] for i in range(4)), strict=True):
            try:
                found.append(_running(worker, claims.read_record(record), siblings, raw))
            except ValueError as exc:
                logger.warning("a claim of %s cannot be read: %s", worker, exc, extra={"action": "read_claim"})
    return sorted(found, key=lambda one: one["started_at"])


def _pages(names: list[str]) -> list[list[str]]:
    return [names[start : start + AT_ONCE] for start in range(0, len(names), AT_ONCE)]


def _running(worker: str, held: claims.Record, siblings: str, raw: str) -> dict[str, Any]:
    headers, tag = _read(raw)
    found = entry(headers, queue=keys.queue_of(held.list), worker=worker, started_at=held.claimed_at)
    return {
        **found,
        "id": held.task_id,
        "deliveries": held.deliveries,
        "siblings": siblings.split(",") if siblings else [],
        "standby": held.standby or None,
        "tag": tag,
    }


def _read(raw: str) -> tuple[dict[str, Any], str | None]:
    """An envelope's headers and its delivery tag."""
    try:
        envelope = json.loads(raw)
        return dict(envelope["headers"]), str(envelope["properties"]["delivery_tag"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}, None


def finished(client: redis.Redis, limit: int = claims.JOURNAL_KEPT) -> list[dict[str, Any]]:
    """The last `limit` finished tasks, newest first."""
    return [json.loads(told) for told in client.lrange(keys.FINISHED, 0, limit - 1)]


def page(client: redis.Redis, start: int, most: int) -> list[dict[str, Any]]:
    """Finished tasks from a place on, newest first."""
    return [json.loads(told) for told in client.lrange(keys.FINISHED, start, start + most - 1)]


def ended(client: redis.Redis, task_id: str) -> dict[str, Any]:
    """The entry of a task's last run that ended; empty where there is none (any more)."""
    told = text(script(client, "ended")(args=[json.dumps(task_id)]))
    found = json.loads(told) if told else {}
    return found if isinstance(found, dict) else {}
