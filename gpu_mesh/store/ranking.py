"""How well workers suit needs, which are named by their numbers: what a publish wakes by (lua/publish.lua)."""

from __future__ import annotations

import redis

from gpu_mesh.domain.scoring import Mode
from gpu_mesh.store import keys
from gpu_mesh.store.scripts import script

__all__ = ["is_ranked", "prune_needs", "rank", "unrank"]

#: Needs that one call forgets at most: about 10 ms of Redis's time.
PRUNED_AT_ONCE = 1000


def rank(client: redis.Redis, worker: str, needs: str, scores: dict[str, float]) -> None:
    """Enter a worker's node score for needs it fits, by mode of placement: publishing wakes the best idle one."""
    pipe = client.pipeline(transaction=False)
    for mode, score in scores.items():
        pipe.zadd(keys.ranking(needs, mode), {worker: score})
    pipe.execute()


def is_ranked(client: redis.Redis, needs: str) -> bool:
    """Whether any worker entered its score for these needs."""
    return bool(client.exists(keys.ranking(needs, Mode.NORMAL.value)))


def unrank(client: redis.Redis, worker: str, needs: str) -> None:
    """Take a worker out of the ranking for needs it does not fit (any more)."""
    for mode in Mode:
        client.zrem(keys.ranking(needs, mode.value), worker)


def prune_needs(client: redis.Redis) -> int:
    """Forget needs that no message has any more, PRUNED_AT_ONCE at most; how many."""
    return int(script(client, "prune")(args=[PRUNED_AT_ONCE]))
