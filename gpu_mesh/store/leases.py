"""Leases: a worker's sign of life, which keeps its claims, and what becomes of them when it ends (DESIGN §6)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import redis

from gpu_mesh.store import claims, keys, server
from gpu_mesh.store.replies import text
from gpu_mesh.store.scripts import script

__all__ = ["Reaped", "Renewal", "living", "reap", "renew"]

#: Claims that one call gives back at most.
REAPED_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Reaped:
    """A claim taken from a dead worker: `outcome` is `requeued` or `dead`."""

    worker: str
    task_id: str
    outcome: str


class Renewal(IntEnum):
    """What became of a lease."""

    #: It had ended: what the worker held may run elsewhere.
    ENDED = 0
    HOLDS = 1
    #: And the worker is the one that reaps and promotes for all.
    TENDS = 2


def renew(client: redis.Redis, worker: str, ttl_s: float, *, anew: bool = False) -> Renewal:
    """Renew a worker's lease, or with `anew` begin one."""
    return Renewal(int(script(client, "renew")(args=[worker, round(ttl_s * 1e6), int(anew)])))


def living(client: redis.Redis) -> list[str]:
    """Workers whose lease holds; those too of which nobody can tell now, for Redis was away."""
    now = server.now(client) * 1e6
    since = "-inf" if now <= float(client.get(keys.GRACE) or 0) else f"({now:.0f}"
    return [text(name) for name in client.zrangebyscore(keys.LEASES, since, "+inf")]


def reap(client: redis.Redis, *, max_deliveries: int, worker: str | None = None) -> list[Reaped]:
    """Give back what workers hold whose lease ended; with `worker` what that one holds, whatever its lease."""
    found: list[Reaped] = []
    unwoken: list[str] = []
    while True:
        told = list(map(text, script(client, "reap")(args=[worker or "", max_deliveries, REAPED_AT_ONCE])))
        for holder, task_id, name, outcome in zip(*(told[i::4] for i in range(4)), strict=True):
            found.append(Reaped(holder, task_id, "dead" if outcome == "dead" else "requeued"))
            if outcome == "requeued":
                unwoken.append(keys.queue_of(name))
        if len(told) < 4 * REAPED_AT_ONCE:
            break
    if unwoken:
        claims.wake(client, unwoken)
    return found
