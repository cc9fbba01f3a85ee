"""Tasks that were taken back, for every worker that meets their messages later (DESIGN §5)."""

from __future__ import annotations

from collections.abc import Iterable

import redis

from gpu_mesh.store import keys, server

__all__ = ["KEPT_S", "add", "contains"]

#: How long a cancellation is remembered, s: longer than results are kept by default, and than most delays are long.
KEPT_S = 7 * 86_400


def add(client: redis.Redis, task_ids: Iterable[str]) -> None:
    """Remember that these were taken back, and forget those whose time is over."""
    now = server.now(client)
    pipe = client.pipeline()
    pipe.zremrangebyscore(keys.REVOKED, "-inf", now)
    if until := dict.fromkeys(task_ids, now + KEPT_S):
        pipe.zadd(keys.REVOKED, until)
    pipe.execute()


def contains(client: redis.Redis, task_id: str) -> bool:
    """Whether the task was taken back, and that is remembered still."""
    until = client.zscore(keys.REVOKED, task_id)
    return until is not None and float(until) > server.now(client)
