"""Which notices go out by which channel now, which wait for another try, and which are given up: pure rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from gpu_mesh.domain.alerts import Notice
from gpu_mesh.domain.backoff import Backoff
from gpu_mesh.domain.channels import Channel

__all__ = ["Key", "Message", "Plan", "Try", "failed", "plan"]

#: A notice, not delivered by a channel, is given up so long after it was written, s.
GIVE_UP_S = 3600.0
#: Messages that one channel is sent in one go.
AT_ONCE = 10
#: Waits between two tries, s.
_BACKOFF = Backoff(first_s=10.0, longest_s=300.0)

#: Id of a notice and key of a channel.
Key: TypeAlias = tuple[str, str]
#: A notice with its title and body.
Message: TypeAlias = tuple[Notice, str, str]


@dataclass(frozen=True, slots=True)
class Try:
    """How often a channel failed with a notice, when the next try is (s since the epoch); or that it was told."""

    tries: int = 0
    due: float = 0.0
    error: str = ""
    is_done: bool = False


@dataclass(slots=True)
class Plan:
    """What to do now."""

    batch: dict[Channel, list[Notice]] = field(default_factory=dict)
    #: With the error of the last try.
    given_up: list[tuple[Notice, Channel, str]] = field(default_factory=list)
    #: Ids of notices that no channel is waiting for.
    finished: list[str] = field(default_factory=list)


def plan(notices: Sequence[Notice], tries: Mapping[Key, Try], channels: Sequence[Channel], now: float) -> Plan:
    """What to do at `now` with `notices`, the oldest first."""
    found = Plan()
    waits: set[str] = set()
    for channel in channels:
        blocked: set[tuple[str, str]] = set()
        batch: list[Notice] = []
        for notice in notices:
            at = tries.get((notice.id, channel.key), Try())
            if not channel.hears(notice) or at.is_done:
                continue
            if at.tries and now - notice.at >= GIVE_UP_S:
                found.given_up.append((notice, channel, at.error))
                continue
            waits.add(notice.id)
            of = (notice.rule, notice.subject)
            # The end of an alert is not told before its beginning.
            if of not in blocked and at.due <= now and len(batch) < AT_ONCE:
                batch.append(notice)
            blocked.add(of)
        if batch:
            found.batch[channel] = batch
    found.finished = [notice.id for notice in notices if notice.id not in waits]
    return found


def failed(before: Try, error: str, now: float, chance: float) -> Try:
    """After one more failure at `now`; `chance` is a random number in [0, 1]."""
    tries = before.tries + 1
    return Try(tries, now + _BACKOFF.delay_s(tries, chance), error)
