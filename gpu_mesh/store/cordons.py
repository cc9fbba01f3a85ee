"""Cordons: nodes and workers that claim nothing, and why (DESIGN §5, §8). Times are Redis's, s since the epoch.

One with an end stays until somebody lifts it (`lift_ended`): claims look at no clock.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import redis

from gpu_mesh.domain.holds import MESH, node_of
from gpu_mesh.domain.queues import CONTROL_QUEUE
from gpu_mesh.domain.untyped import mapping, number
from gpu_mesh.errors import InvalidValue
from gpu_mesh.store import keys, server
from gpu_mesh.store.gates import check_names
from gpu_mesh.store.replies import text
from gpu_mesh.store.scripts import script

__all__ = ["Cordon", "all_cordons", "cordon", "cordoned", "is_cordoned", "lift", "lift_ended", "parse", "parse_state"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cordon:
    """Why a node or worker claims nothing; `until` None: until somebody lifts it."""

    name: str
    reason: str
    since: float = 0.0
    by: str = ""
    until: float | None = None
    why: str = ""
    #: How long what runs there may take to yield, s; None: it goes on to its end.
    yield_s: float | None = None


def cordon(
    client: redis.Redis,
    name: str,
    reason: str,
    *,
    why: str,
    by: str = "",
    until: float | None = None,
    yield_s: float | None = None,
) -> bool:
    """A node or worker claims nothing from now on. False when it was cordoned for that reason already: since then, but
    now as this says. Raises InvalidValue for a name that could mean another one.
    """
    _check(name, reason)
    before = next((one for one in all_cordons(client) if (one.name, one.reason) == (name, reason)), None)
    since = before.since if before else server.now(client)
    told = {"since": since, "by": by, "until": until, "why": why, "yield_s": yield_s}
    yields = "" if yield_s is None else f"{yield_s:g}"
    return bool(script(client, "cordon")(args=[name, reason, json.dumps(told), why or reason, yields]))


def lift(client: redis.Redis, name: str, reason: str) -> bool:
    """Drop a reason; it may claim again when none is left. False when it was not cordoned for that."""
    _check(name, reason)
    return bool(script(client, "cordon")(args=[name, reason, "", "", ""]))


def lift_ended(
    client: redis.Redis,
    now: float,
    fields: Mapping[str, str] | None = None,
    *,
    keep: Callable[[Cordon], bool] = lambda _: False,
) -> list[Cordon]:
    """Lift those whose end has come, unless they were given another one meanwhile; which.

    `fields`: as `parse` has them, where they are known. What `keep` is true of stays.
    """
    ended = []
    for field, told in (_fields(client) if fields is None else fields).items():
        found = _read(field, told)
        if found.until is not None and found.until <= now and not keep(found):
            args = [found.name, found.reason, "", "", "", told]
            if script(client, "cordon")(args=args):
                ended.append(found)
    return ended


def all_cordons(client: redis.Redis) -> list[Cordon]:
    """Every cordon, by name and reason. What is unreadable in one is left out of it."""
    return sorted((_read(*item) for item in _fields(client).items()), key=lambda one: (one.name, one.reason))


def cordoned(client: redis.Redis) -> dict[str, str]:
    """The nodes and workers that claim nothing, and why."""
    return parse_state(client.hgetall(keys.STATE))


def parse_state(told: Mapping[Any, Any]) -> dict[str, str]:
    """The same, of what Redis holds of what is closed."""
    held = {text(field): text(why) for field, why in told.items()}
    return {field.removeprefix("!"): why for field, why in held.items() if field.startswith("!")}


def is_cordoned(worker: str, cordoned: dict[str, str]) -> bool:
    """Whether a worker is, or its node; the control worker of a node looks after the mesh all the same."""
    return worker in cordoned or (node_of(worker) in cordoned and worker.partition("@")[0] != CONTROL_QUEUE)


def _check(name: str, reason: str) -> None:
    if name == MESH:
        raise InvalidValue("scope", name, "a node, or a worker such as gpu0@node")
    check_names(scope=name, reason=reason)


def _fields(client: redis.Redis) -> dict[str, str]:
    """What was told of each, by <reason>@<name>."""
    return parse(client.hgetall(keys.CORDONS))


def parse(held: Mapping[Any, Any]) -> dict[str, str]:
    """The same, of what Redis holds: beside them lies what the script keeps for itself."""
    found = {text(field): text(told) for field, told in held.items()}
    return {field: told for field, told in found.items() if "@" in field and not _is_own(field)}


def _is_own(field: str) -> bool:
    reason = field.partition("@")[0]
    return "!" in reason or ">" in reason


def _read(field: str, told: str) -> Cordon:
    reason, _, name = field.partition("@")
    try:
        found = mapping(json.loads(told))
    except ValueError:
        found = {}
    return Cordon(
        name=name,
        reason=reason,
        since=number(found.get("since")) or 0.0,
        by=str(found.get("by") or ""),
        until=number(found.get("until")),
        why=str(found.get("why") or ""),
        yield_s=number(found.get("yield_s")),
    )
