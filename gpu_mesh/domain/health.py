"""From what checks find to the state of a node, a device or an address (SPEC H2, H3): pure rules.

    unknown ──► healthy ──► degraded ──► unhealthy ──► offline
    no check    0 strikes   1-2          3-4           5 and more
                   ▲           │             │            │
                   └───────────┴── a check that passes ───┘

A strike is one failed check; a hardware fault counts for three at once. A warning makes degraded while it lasts, and is
no strike. Who fell FLAPS times within FLAP_CHECKS checks flaps: it is degraded at best until it has passed
SETTLE_CHECKS in a row.

    success rate = 100 · checks that passed / checks                                  percent, since the first check
    uptime score = 100 · Σ quality · 2^(−age / HALF_LIFE_S) / Σ 2^(−age / HALF_LIFE_S)   0 to 100

with the quality of a check 1 where it passed, ½ where it found warnings, 0 where it failed: an hour after the end of a
long outage the score is 50. Each interval counts by its length, so the score does not depend on how often is checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

__all__ = ["CLAIMABLE", "Finding", "Health", "Severity", "State", "check"]

#: Strikes at which a state begins (SPEC H2).
UNHEALTHY_AT, OFFLINE_AT = 3, 5
#: Falls within so many checks that make it flap, and passed checks in a row that end it.
FLAPS, FLAP_CHECKS, SETTLE_CHECKS = 3, 20, 10
#: Age at which a check counts half for the uptime score, s.
HALF_LIFE_S = 3600.0
#: Part of the score that is left of a device that is degraded, for placement (domain/scoring).
DEGRADED_SCORE = 0.5


class State(StrEnum):
    """How somebody is."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    OFFLINE = "offline"


#: States in which a device may claim.
CLAIMABLE = frozenset({State.UNKNOWN, State.HEALTHY, State.DEGRADED})


class Severity(StrEnum):
    """What a finding does to the state."""

    #: Degraded while it lasts.
    WARNING = "warning"
    #: A strike.
    FAILURE = "failure"
    #: Of the hardware: unhealthy at once, and no restart of an engine cures it.
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found."""

    severity: Severity
    #: Of what: `worker`, `gpu`, `engine`, `cpu_fallback`, `node`, `load`, `memory`, `disk`, `clock`.
    what: str
    #: In words, with the figures.
    text: str
    #: What to do.
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What is known of one subject. Times in s since the epoch."""

    state: State = State.UNKNOWN
    #: Failed checks in a row, a fault counting three; 0 after one that passed.
    strikes: int = 0
    #: When the state began.
    since: float = 0.0
    checked_at: float = 0.0
    #: When the first of the strikes was, 0 without any.
    failing_since: float = 0.0
    checks: int = 0
    #: Of them those that failed.
    failed: int = 0
    score: float = 100.0
    #: How much of all time the score knows, weighted as it is: 0 at the first check, towards 1.
    known: float = 0.0
    #: Numbers of the checks, counted from the first, at which it fell.
    falls: tuple[int, ...] = ()
    #: Passed checks in a row.
    passed: int = 0
    flapping: bool = False
    findings: tuple[Finding, ...] = ()

    @property
    def success_rate(self) -> float | None:
        """Percent of checks that passed; None before the first."""
        return 100.0 * (self.checks - self.failed) / self.checks if self.checks else None

    @property
    def is_claimable(self) -> bool:
        """Whether a device in that state may claim."""
        return self.state in CLAIMABLE

    @property
    def factor(self) -> float:
        """What placement multiplies the device's score by."""
        return {State.DEGRADED: DEGRADED_SCORE}.get(self.state, 1.0 if self.is_claimable else 0.0)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data, with `success_rate`; `from_dict` reads it back."""
        return {**asdict(self), "success_rate": self.success_rate}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Health:
        """Read `to_dict`'s data, also after JSON. Names of a newer version are ignored."""
        known = {name: data[name] for name in cls.__slots__ if name in data}
        findings = tuple(
            Finding(Severity(one["severity"]), str(one["what"]), str(one["text"]), str(one.get("remedy", "")))
            for one in known.pop("findings", ())
        )
        falls = tuple(int(fall) for fall in known.pop("falls", ()))
        return cls(**{**known, "state": State(known.get("state", State.UNKNOWN))}, findings=findings, falls=falls)


def check(before: Health, now: float, found: Iterable[Finding]) -> Health:
    """The health after a check at `now` that found this."""
    findings = tuple(found)
    severities = {finding.severity for finding in findings}
    fault = Severity.FAULT in severities
    failed = fault or Severity.FAILURE in severities
    number = before.checks + 1
    falls = tuple(fall for fall in before.falls if number - fall < FLAP_CHECKS)
    fell = failed and before.strikes == 0 and before.checks > 0
    if fell:
        falls = (*falls, number)
    passed = 0 if failed else before.passed + 1
    flapping = (before.flapping and passed < SETTLE_CHECKS) or (fell and len(falls) >= FLAPS)
    if before.flapping and not flapping:
        falls = ()
    strikes = before.strikes + 1 if failed else 0
    if fault:
        strikes = max(strikes, UNHEALTHY_AT)
    state = _state(strikes, degraded=bool(findings) or flapping)
    quality = 0.0 if failed else 0.5 if findings else 1.0
    score, known = _score(before, now, quality)
    return replace(
        before,
        state=state,
        strikes=strikes,
        since=before.since if state is before.state else now,
        checked_at=now,
        failing_since=(before.failing_since or now) if failed else 0.0,
        checks=number,
        failed=before.failed + failed,
        score=score,
        known=known,
        falls=falls,
        passed=passed,
        flapping=flapping,
        findings=findings,
    )


def _state(strikes: int, *, degraded: bool) -> State:
    if strikes >= OFFLINE_AT:
        return State.OFFLINE
    if strikes >= UNHEALTHY_AT:
        return State.UNHEALTHY
    return State.DEGRADED if strikes or degraded else State.HEALTHY


def _score(before: Health, now: float, quality: float) -> tuple[float, float]:
    """The uptime score, the interval since the last check having had this quality, and what it knows then."""
    kept = math.exp2(-max(0.0, now - before.checked_at) / HALF_LIFE_S) if before.checks else 1.0
    known = kept * before.known + (1.0 - kept)
    if known <= 0.0:
        return 100.0 * quality, 0.0
    score = (kept * before.known * before.score + (1.0 - kept) * 100.0 * quality) / known
    return min(100.0, score), known
