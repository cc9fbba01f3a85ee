"""What holds for the windows: which hours, said by whom, and which queues were opened by hand within them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import redis

from gpu_mesh.store import keys
from gpu_mesh.store.replies import text

__all__ = [
    "Opened",
    "Plan",
    "keep_closed",
    "open_until",
    "parse",
    "read",
    "set_plan",
    "set_usage_changed_at",
    "usage_changed_at",
]

#: Field of the plan; that of a queue opened by hand has the queue's name behind a `+`.
_PLAN, _OPENED = "plan", "+"
#: Field of when the usage gate changed last.
_USAGE = "usage"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """Peak hours as in GPU_MESH_PEAK_HOURS, the name of their time zone, and the node that said so."""

    hours: str
    zone: str
    by: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A queue is open within its peak hours until then, s since the epoch by Redis's clock; by whom, and why."""

    until: float
    by: str = ""
    why: str = ""


def read(client: redis.Redis) -> tuple[Plan | None, dict[str, Opened]]:
    """The plan, None where no lead has said one yet; and what was opened by hand, by queue."""
    return parse(client.hgetall(keys.WINDOWS))


def parse(told: Mapping[Any, Any]) -> tuple[Plan | None, dict[str, Opened]]:
    """The same, of what Redis holds."""
    held = {text(field): text(words) for field, words in told.items()}
    opened = {
        field.removeprefix(_OPENED): found
        for field, words in held.items()
        if field.startswith(_OPENED) and (found := _loaded(words, _opened))
    }
    return _loaded(held.get(_PLAN, ""), _plan), opened


def set_plan(client: redis.Redis, plan: Plan) -> None:
    """These hours hold from now on."""
    client.hset(keys.WINDOWS, _PLAN, json.dumps(asdict(plan)))


def open_until(client: redis.Redis, queue: str, opened: Opened) -> None:
    """Peak hours do not close the queue before then."""
    client.hset(keys.WINDOWS, f"{_OPENED}{queue}", json.dumps(asdict(opened)))


def keep_closed(client: redis.Redis, queue: str) -> bool:
    """Peak hours close the queue again; False where nothing else was said."""
    return bool(client.hdel(keys.WINDOWS, f"{_OPENED}{queue}"))


def usage_changed_at(client: redis.Redis) -> float | None:
    """When the usage gate closed or opened last, s since the epoch; None where it never did."""
    try:
        return float(client.hget(keys.WINDOWS, _USAGE) or "")
    except ValueError:
        return None


def set_usage_changed_at(client: redis.Redis, now: float) -> None:
    """It did at `now`."""
    client.hset(keys.WINDOWS, _USAGE, repr(now))


def _loaded(told: str, kind: Callable[[dict[str, Any]], T]) -> T | None:
    """None for what is none of ours."""
    try:
        return kind(json.loads(told))
    except (ValueError, TypeError, KeyError):
        return None


def _plan(found: dict[str, Any]) -> Plan:
    return Plan(str(found["hours"]), str(found["zone"]), str(found["by"]))


def _opened(found: dict[str, Any]) -> Opened:
    return Opened(float(found["until"]), str(found["by"]), str(found["why"]))
