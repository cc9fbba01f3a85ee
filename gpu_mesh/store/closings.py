"""All that closes queues and workers, read in one go: who brings it in line with the clock does so each second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import redis

from gpu_mesh.store import cordons, gates, keys, server, windows
from gpu_mesh.store.gates import Gate
from gpu_mesh.store.windows import Opened, Plan

__all__ = ["Closings", "read"]


@dataclass(frozen=True, slots=True)
class Closings:
    """At `now`, s since the epoch by Redis's clock."""

    now: float
    #: As `windows.read` has them.
    plan: Plan | None
    opened: Mapping[str, Opened]
    gates: list[Gate]
    #: As `cordons.parse` has them.
    cordons: Mapping[str, str]


def read(client: redis.Redis) -> Closings:
    """What is closed now."""
    pipe = client.pipeline(transaction=False)
    pipe.time()
    for key in (keys.WINDOWS, keys.GATES, keys.CORDONS):
        pipe.hgetall(key)
    time, hours, closed, cordoned = pipe.execute()
    plan, opened = windows.parse(hours)
    return Closings(server.stamp(*time), plan, opened, gates.parse(closed), cordons.parse(cordoned))
