"""Memory of devices that is held by programs which are none of the mesh's, as their workers told last."""

from __future__ import annotations

from collections.abc import Sequence

import redis

from gpu_mesh.store import keys
from gpu_mesh.store.replies import text

__all__ = ["read", "write"]


def read(client: redis.Redis, workers: Sequence[str]) -> dict[str, float]:
    """GB by worker, of those that told some. What is unreadable is left out."""
    found = {}
    for worker, told in zip(workers, client.mget([keys.held(worker) for worker in workers]), strict=True):
        try:
            found[worker] = float(text(told)) if told is not None else 0.0
        except ValueError:
            continue
    return {worker: gb for worker, gb in found.items() if gb > 0}


def write(client: redis.Redis, worker: str, gb: float, ttl_s: float) -> None:
    """So much of the worker's device is held, for `ttl_s` unless it is told again; 0: none any more."""
    if gb > 0:
        client.set(keys.held(worker), f"{gb:g}", px=max(1, int(ttl_s * 1000)))
    else:
        client.delete(keys.held(worker))
