"""The alerts that an interface shows: those that stand, and those that were over lately (SPEC H8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpu_mesh.store import alerts

__all__ = ["LATELY_S", "AlertView", "recent"]

#: How long ago what is over may have ended, s (SPEC H8).
LATELY_S = 300.0


@dataclass(frozen=True, slots=True)
class AlertView:
    """One alert; times in s since the epoch, `over_at` None while it stands."""

    level: str
    rule: str
    subject: str
    text: str
    remedy: str
    since: float
    over_at: float | None = None


def recent(client: Any, now: float) -> list[AlertView]:
    """Those that stand, the gravest first, then those that ended within LATELY_S before `now`."""
    standing = [
        AlertView(one.level.name, one.rule, one.subject, one.text, one.remedy, one.since)
        for one in alerts.standing(client)
    ]
    past = [
        AlertView(one.level, one.rule, one.subject, one.text, one.remedy, one.raised, one.recovered)
        for one in alerts.past(client)
        if now - one.recovered <= LATELY_S
    ]
    return [*standing, *past]
