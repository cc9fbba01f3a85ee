"""Gates: reasons why a queue may not be claimed from; and cordons: devices that claim nothing (DESIGN §7).

A scope is `*` (the whole mesh), a node's name, or a worker's (`gpu0@node`).
"""

from __future__ import annotations

import json
import re

import redis

from gpu_mesh.errors import InvalidValue
from gpu_mesh.store import keys, server
from gpu_mesh.store.scripts import script

__all__ = ["MESH", "close", "cordon", "reopen", "uncordon"]

#: The scope of every device; no node or worker can be called so.
MESH = "*"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_PATTERNS = {
    "queue": (re.compile(_NAME), "the name of a queue: letters, digits, '.', '_' and '-'"),
    "reason": (re.compile(_NAME), "a reason such as manual or window: letters, digits, '.', '_' and '-'"),
    "scope": (re.compile(rf"\*|({_NAME}@)?{_NAME}"), "'*' for the whole mesh, a node, or a worker such as gpu0@node"),
}


def close(client: redis.Redis, queue: str, reason: str, *, scope: str = MESH, by: str = "") -> bool:
    """Close `queue` in the scope, for a reason more. False when it was closed for that already.

    Raises InvalidValue naming the field, as all of these do: names that could mean another scope are refused.
    """
    _check(queue=queue, reason=reason, scope=scope)
    told = json.dumps({"since": server.now(client), "by": by})
    return bool(script(client, "gate")(args=[queue, reason, scope, told]))


def reopen(client: redis.Redis, queue: str, reason: str, *, scope: str = MESH) -> bool:
    """Drop a reason; the queue is open when none is left. False when it was not closed for that."""
    _check(queue=queue, reason=reason, scope=scope)
    return bool(script(client, "gate")(args=[queue, reason, scope, ""]))


def cordon(client: redis.Redis, name: str, why: str) -> None:
    """A node or worker claims nothing from now on; what it runs goes on."""
    _check(scope=name)
    client.hset(keys.STATE, f"!{name}", why)


def uncordon(client: redis.Redis, name: str) -> None:
    """It may claim again."""
    _check(scope=name)
    client.hdel(keys.STATE, f"!{name}")


def _check(**fields: str) -> None:
    for field, value in fields.items():
        pattern, allowed = _PATTERNS[field]
        if not pattern.fullmatch(value):
            raise InvalidValue(field, value, allowed)
