"""How nodes, devices and watched addresses are, by the last check (SPEC H3). Times are Redis's, s since the epoch."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import redis

from gpu_mesh.domain.health import Health
from gpu_mesh.store import keys
from gpu_mesh.store.replies import text

__all__ = [
    "DEVICE",
    "ENDPOINT",
    "NODE",
    "Checked",
    "all_checked",
    "checked",
    "forget",
    "keep",
    "may_check",
    "parse",
    "subject",
]

logger = logging.getLogger(__name__)

#: Kinds of subjects.
DEVICE, NODE, ENDPOINT = "device", "node", "endpoint"


@dataclass(frozen=True, slots=True)
class Checked:
    """One subject, `device:gpu0@office`, `node:office` or `endpoint:a40`."""

    subject: str
    health: Health
    #: How long the answer took, ms: of a device's engine, else of its worker; of an address. None without an answer.
    response_ms: float | None = None
    models: tuple[str, ...] = ()
    #: What the worker reported last (services/vitals), also while it is silent; of a node that of its machine.
    report: Mapping[str, Any] = field(default_factory=dict)
    #: The address, of one that is watched.
    url: str | None = None

    @property
    def kind(self) -> str:
        """DEVICE, NODE or ENDPOINT."""
        return self.subject.partition(":")[0]

    @property
    def name(self) -> str:
        """What is called so: `gpu0@office`."""
        return self.subject.partition(":")[2]

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return {
            "subject": self.subject,
            "health": self.health.to_dict(),
            "response_ms": self.response_ms,
            "models": list(self.models),
            "report": dict(self.report),
            "url": self.url,
        }


def subject(kind: str, name: str) -> str:
    """The name of a subject."""
    return f"{kind}:{name}"


def all_checked(client: redis.Redis) -> dict[str, Checked]:
    """Everybody that was checked, by subject. What cannot be read is left out, with a logged warning."""
    return parse(client.hgetall(keys.HEALTH))


def parse(told: Mapping[Any, Any]) -> dict[str, Checked]:
    """The same, of what Redis holds."""
    found = (_read(text(name), text(words)) for name, words in sorted(told.items()))
    return {one.subject: one for one in found if one is not None}


def checked(client: redis.Redis, kind: str, name: str) -> Checked | None:
    """One subject; None where it was never checked."""
    told = client.hget(keys.HEALTH, subject(kind, name))
    return None if told is None else _read(subject(kind, name), text(told))


def keep(client: redis.Redis, found: Iterable[Checked]) -> None:
    """Write down what a check found."""
    told = [part for one in found for part in (one.subject, json.dumps(one.to_dict()))]
    if told:
        client.hset(keys.HEALTH, items=told)


def forget(client: redis.Redis, subjects: Iterable[str]) -> None:
    """Drop them."""
    if names := list(subjects):
        client.hdel(keys.HEALTH, *names)


def may_check(client: redis.Redis, for_s: float) -> bool:
    """Whether nobody began a check within the last `for_s`; if so, the caller does now."""
    return bool(client.set(keys.CHECKER, "1", nx=True, px=max(1, round(for_s * 1000))))


def _read(name: str, told: str) -> Checked | None:
    try:
        data = json.loads(told)
        return Checked(
            name,
            Health.from_dict(data["health"]),
            response_ms=data.get("response_ms"),
            models=tuple(map(str, data.get("models") or ())),
            report=dict(data.get("report") or {}),
            url=data.get("url"),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        logger.warning("the health of %s cannot be read: %r", name, exc, extra={"action": "read_health"})
        return None
