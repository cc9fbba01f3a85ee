"""What runs now and what ran lately, as the workers write it down: the read side of every task table.

One entry is a JSON object: id, name, queue, priority, worker, state, sent_at, started_at, waited_s, ran_s.
"""

from __future__ import annotations

import json
from typing import Any

import redis

from gpu_mesh.store import keys

__all__ = [
    "KEPT",
    "clear_node",
    "clear_running",
    "finished",
    "running",
    "task_finished",
    "task_left",
    "task_lost",
    "task_started",
]

#: How many finished tasks are remembered.
KEPT = 10_000


def task_started(client: redis.Redis, entry: dict[str, Any]) -> None:
    """The task of `entry` runs now."""
    client.hset(keys.RUNNING, entry["id"], json.dumps(entry))


def task_left(client: redis.Redis, task_id: str) -> None:
    """The task runs no more and has not ended: it is tried again, goes on elsewhere, or was replaced."""
    client.hdel(keys.RUNNING, task_id)


def task_lost(client: redis.Redis, task_id: str, state: str, ended_at: float) -> None:
    """The process that ran the task is gone, and it ended in `state`. Nothing if it did not run."""
    held = client.hget(keys.RUNNING, task_id)
    if held:
        entry = json.loads(held)
        task_finished(client, {**entry, "state": state, "ran_s": max(0.0, ended_at - entry["started_at"])})


def task_finished(client: redis.Redis, entry: dict[str, Any]) -> None:
    """The task of `entry` runs no more; `entry` is how it ended."""
    pipe = client.pipeline()
    pipe.hdel(keys.RUNNING, entry["id"])
    pipe.lpush(keys.FINISHED, json.dumps(entry))
    pipe.ltrim(keys.FINISHED, 0, KEPT - 1)
    pipe.execute()


def clear_running(client: redis.Redis, worker: str) -> None:
    """A worker that starts runs nothing yet, whatever its predecessor left."""
    _clear(client, [entry["id"] for entry in running(client) if entry["worker"] == worker])


def clear_node(client: redis.Redis, node: str) -> None:
    """A node that is forgotten runs nothing any more."""
    _clear(client, [entry["id"] for entry in running(client) if str(entry["worker"]).rpartition("@")[2] == node])


def _clear(client: redis.Redis, task_ids: list[str]) -> None:
    if task_ids:
        client.hdel(keys.RUNNING, *task_ids)


def running(client: redis.Redis) -> list[dict[str, Any]]:
    """What runs now, longest first."""
    return sorted(map(json.loads, client.hgetall(keys.RUNNING).values()), key=lambda entry: entry["started_at"])


def finished(client: redis.Redis, limit: int = KEPT) -> list[dict[str, Any]]:
    """The last `limit` finished tasks, newest first."""
    return [json.loads(entry) for entry in client.lrange(keys.FINISHED, 0, limit - 1)]
