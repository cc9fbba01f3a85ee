"""What runs now and what ran lately, as the workers write it down: the read side of every task table.

One entry is a JSON object: id, name, queue, priority, worker, state, sent_at, started_at, waited_s, ran_s.
"""

from __future__ import annotations

import json
from typing import Any

import redis

from gpu_mesh.store import keys

__all__ = ["KEPT", "clear_running", "finished", "running", "task_finished", "task_started"]

#: How many finished tasks are remembered.
KEPT = 10_000


def task_started(client: redis.Redis, worker: str, entry: dict[str, Any]) -> None:
    """Worker `worker` runs `entry` now."""
    client.hset(keys.RUNNING, worker, json.dumps(entry))


def task_finished(client: redis.Redis, worker: str, entry: dict[str, Any]) -> None:
    """Worker `worker` runs nothing any more; `entry` is how it ended."""
    pipe = client.pipeline()
    pipe.hdel(keys.RUNNING, worker)
    pipe.lpush(keys.FINISHED, json.dumps(entry))
    pipe.ltrim(keys.FINISHED, 0, KEPT - 1)
    pipe.execute()


def clear_running(client: redis.Redis, worker: str) -> None:
    """A worker that starts runs nothing yet, whatever its predecessor left."""
    client.hdel(keys.RUNNING, worker)


def running(client: redis.Redis) -> list[dict[str, Any]]:
    """What runs now, longest first."""
    return sorted(map(json.loads, client.hgetall(keys.RUNNING).values()), key=lambda entry: entry["started_at"])


def finished(client: redis.Redis, limit: int = KEPT) -> list[dict[str, Any]]:
    """The last `limit` finished tasks, newest first."""
    return [json.loads(entry) for entry in client.lrange(keys.FINISHED, 0, limit - 1)]
