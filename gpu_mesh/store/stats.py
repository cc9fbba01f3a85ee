"""What the scripts count."""

from __future__ import annotations

import redis

from gpu_mesh.store import keys

__all__ = ["COUNTED", "read"]

#: Counts there are. `swaps_saved`: model swaps that affinity avoided.
COUNTED = ("swaps_saved",)


def read(client: redis.Redis) -> dict[str, int]:
    """Every count; 0 for what was never counted."""
    return dict(zip(COUNTED, (int(value or 0) for value in client.hmget(keys.STATS, COUNTED)), strict=True))
