"""Gates: reasons why a queue may not be claimed from (DESIGN §7).

A scope is `*` (the whole mesh), a node's name, or a worker's (`gpu0@node`). A gate with an end stays closed until
somebody opens it (`open_ended`): claims look at no clock. Times are Redis's, s since the epoch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import redis

from gpu_mesh.domain.holds import MESH
from gpu_mesh.errors import InvalidValue
from gpu_mesh.store import keys, server
from gpu_mesh.store.replies import text
from gpu_mesh.store.scripts import script

__all__ = ["MESH", "Gate", "all_gates", "check_names", "close", "open_ended", "parse", "reopen"]

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_PATTERNS = {
    "queue": (re.compile(_NAME), "the name of a queue: letters, digits, '.', '_' and '-'"),
    "reason": (re.compile(_NAME), "a reason such as manual or window: letters, digits, '.', '_' and '-'"),
    "scope": (re.compile(rf"\*|({_NAME}@)?{_NAME}"), "'*' for the whole mesh, a node, or a worker such as gpu0@node"),
}

#: A gate's name in Redis.
_FIELD = re.compile(r"(?P<queue>[^|]+)\|(?P<reason>[^@]*)@(?P<scope>.*)")


@dataclass(frozen=True, slots=True)
class Gate:
    """Why a queue is closed in a scope, since when and by whom; `until` None: until somebody opens it."""

    queue: str
    reason: str
    scope: str = MESH
    since: float = 0.0
    by: str = ""
    until: float | None = None
    #: What whoever closed it said of it.
    why: str = ""


def all_gates(client: redis.Redis) -> list[Gate]:
    """Every gate there is, by queue, reason and scope. What is unreadable in one is left out of it."""
    return parse(client.hgetall(keys.GATES))


def parse(told: Mapping[Any, Any]) -> list[Gate]:
    """The same, of what Redis holds."""
    held = {text(field): text(words) for field, words in told.items()}
    return [_read(match, held[field]) for field in sorted(held) if (match := _FIELD.fullmatch(field))]


def close(
    client: redis.Redis,
    queue: str,
    reason: str,
    *,
    scope: str = MESH,
    by: str = "",
    until: float | None = None,
    why: str = "",
) -> bool:
    """Close `queue` in the scope, for a reason more. False when it was closed for that already: since then, but now
    as this says.

    Raises InvalidValue naming the field, as all of these do: names that could mean another scope are refused.
    """
    check_names(queue=queue, reason=reason, scope=scope)
    before = next((gate for gate in all_gates(client) if _of(gate) == (queue, reason, scope)), None)
    told = {"since": before.since if before else server.now(client), "by": by, "until": until, "why": why}
    return bool(script(client, "gate")(args=[queue, reason, scope, json.dumps(told)]))


def reopen(client: redis.Redis, queue: str, reason: str, *, scope: str = MESH) -> bool:
    """Drop a reason; the queue is open when none is left. False when it was not closed for that."""
    check_names(queue=queue, reason=reason, scope=scope)
    return bool(script(client, "gate")(args=[queue, reason, scope, ""]))


def open_ended(client: redis.Redis, gate: Gate) -> bool:
    """Open a gate whose end has come, unless it was given another one meanwhile."""
    field = f"{gate.queue}|{gate.reason}@{gate.scope}"
    held = client.hget(keys.GATES, field)
    match = _FIELD.fullmatch(field)
    if held is None or match is None or _read(match, text(held)) != gate:
        return False
    return bool(script(client, "gate")(args=[gate.queue, gate.reason, gate.scope, "", held]))


def check_names(**fields: str) -> None:
    """Raise InvalidValue for a `queue`, `reason` or `scope` that could mean another one."""
    for field, value in fields.items():
        pattern, allowed = _PATTERNS[field]
        if not pattern.fullmatch(value):
            raise InvalidValue(field, value, allowed)


def _of(gate: Gate) -> tuple[str, str, str]:
    return gate.queue, gate.reason, gate.scope


def _read(name: re.Match[str], told: str) -> Gate:
    try:
        found = json.loads(told)
    except ValueError:
        found = None
    found = found if isinstance(found, dict) else {}
    since, until = found.get("since"), found.get("until")
    return Gate(
        **name.groupdict(),
        since=since if isinstance(since, (int, float)) else 0.0,
        by=str(found.get("by") or ""),
        until=until if isinstance(until, (int, float)) else None,
        why=str(found.get("why") or ""),
    )
