"""Checkpoints: what a task saved so that a later run of it goes on from there (SPEC F2)."""

from __future__ import annotations

import redis

from gpu_mesh.store import keys
from gpu_mesh.store.scripts import script

__all__ = ["drop", "load", "save"]


def save(client: redis.Redis, task_id: str, state: str, *, worker: str, tag: str, expires_s: float) -> bool:
    """Keep `state` (JSON) for `expires_s`; False, and nothing kept, when the claim is not the worker's any more."""
    args: list[str | int] = [worker, tag, state, max(1, round(expires_s * 1000))]
    return bool(script(client, "checkpoint")(keys=[keys.checkpoint(task_id)], args=args))


def load(client: redis.Redis, task_id: str) -> str | None:
    """What was saved last, as JSON; None where there is none."""
    found = client.get(keys.checkpoint(task_id))
    return None if found is None else str(found)


def drop(client: redis.Redis, task_id: str) -> bool:
    """Forget it; whether there was one."""
    return bool(client.delete(keys.checkpoint(task_id)))
