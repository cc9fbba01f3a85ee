"""Gates: reasons why a queue may not be claimed from; and cordons: devices that claim nothing (DESIGN §7).

A scope is `mesh`, a node's name, or a worker's (`gpu0@node`).
"""

from __future__ import annotations

import json

import redis

from gpu_mesh.store import keys
from gpu_mesh.store.scripts import script

__all__ = ["MESH", "close", "cordon", "reopen", "uncordon"]

#: The scope of every device.
MESH = "mesh"


def close(client: redis.Redis, queue: str, reason: str, *, scope: str = MESH, by: str = "") -> bool:
    """Close `queue` in the scope, for a reason more. False when it was closed for that already."""
    seconds, micros = client.time()
    told = json.dumps({"since": seconds + micros / 1e6, "by": by})
    return bool(script(client, "gate")(args=[queue, reason, scope, told]))


def reopen(client: redis.Redis, queue: str, reason: str, *, scope: str = MESH) -> bool:
    """Drop a reason; the queue is open when none is left. False when it was not closed for that."""
    return bool(script(client, "gate")(args=[queue, reason, scope, ""]))


def cordon(client: redis.Redis, name: str, why: str) -> None:
    """A node or worker claims nothing from now on; what it runs goes on."""
    client.hset(keys.STATE, f"!{name}", why)


def uncordon(client: redis.Redis, name: str) -> None:
    """It may claim again."""
    client.hdel(keys.STATE, f"!{name}")
