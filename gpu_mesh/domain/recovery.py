"""When an engine that is down is restarted, and when nothing but an operator helps (SPEC H4, H5): pure rules.

    pause before attempt n = 0 for the first, then 10 · 2^(n−2) s, at most 300 s      0, 10, 20, 40, 80, 160, 300, …

counted from the end of the attempt before. Attempts count from the first failed check on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from gpu_mesh.domain.backoff import Backoff
from gpu_mesh.domain.health import Health, Severity

__all__ = ["Plan", "Wait", "attempts_since", "pause_s", "plan"]

#: The pause before the second attempt is the first.
PAUSES = Backoff(first_s=10.0, longest_s=300.0)


class Wait(StrEnum):
    """Why nothing is restarted now."""

    WELL = "well"
    HARDWARE = "hardware"
    NO_ENGINE = "no engine"
    BUSY = "busy"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done: `wait` None: restart now, the `attempt`-th time."""

    attempt: int
    wait: Wait | None = None


def pause_s(attempt: int) -> float:
    """The pause before the attempt of that number, from 1 on."""
    return PAUSES.ceiling_s(attempt - 1)


def attempts_since(began: float, ended: Iterable[float]) -> tuple[int, float]:
    """How many of the attempts that ended then fall into the present trouble, and when the last did; s."""
    found = [at for at in ended if at >= began]
    return len(found), max(found, default=0.0)


def plan(health: Health, now: float, ended: Iterable[float], *, is_busy: bool) -> Plan:
    """What to do about a device. `ended`: when earlier attempts at its engine ended, s; `is_busy`: its node is at
    work on one."""
    count, last = attempts_since(health.failing_since, ended)
    number = count + 1
    if health.is_claimable:
        return Plan(number, Wait.WELL)
    if any(finding.severity is Severity.FAULT for finding in health.findings):
        return Plan(number, Wait.HARDWARE)
    if not any(finding.what == "engine" for finding in health.findings):
        return Plan(number, Wait.NO_ENGINE)
    if is_busy:
        return Plan(number, Wait.BUSY)
    return Plan(number, Wait.PAUSE if now - last < pause_s(number) else None)
