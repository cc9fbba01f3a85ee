"""How far a task is whose parts run on several devices."""

from __future__ import annotations

import redis

from gpu_mesh.store import keys

__all__ = ["add"]

#: A task's progress is forgotten when no part of it ended for this long, s.
KEPT_S = 86_400


def add(client: redis.Redis, task_id: str, part_id: str, amount: int) -> int:
    """Part `part_id` of `task_id` did `amount`; returns the sum over its parts. A part run again counts once."""
    key = keys.progress(task_id)
    pipe = client.pipeline()
    pipe.hset(key, part_id, amount)
    pipe.hvals(key)
    pipe.expire(key, KEPT_S)
    _, amounts, _ = pipe.execute()
    return sum(map(int, amounts))
