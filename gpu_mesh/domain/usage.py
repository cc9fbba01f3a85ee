"""When internal work waits for lower usage (SPEC Q3): a pure rule, times in s of one clock."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LEAST_S", "LOW", "Usage", "waits"]

#: The gate changes at most so often, s.
LEAST_S = 60.0
#: It opens once usage is down to this part of what closes it.
LOW = 0.6


@dataclass(frozen=True, slots=True)
class Usage:
    """Of the devices there are, how many do interactive work."""

    busy: int
    devices: int

    @property
    def share(self) -> float:
        """From 0 to 1; 0 where there is no device."""
        return min(1.0, self.busy / self.devices) if self.devices else 0.0


def waits(usage: Usage, now: float, *, waited: bool, changed_at: float | None, is_peak: bool, limit: float) -> bool:
    """Whether internal work waits from `now`, where before it did or not (`waited`), since `changed_at`.

    It waits in peak hours alone, from a usage above `limit` (a share; 1: never) to one of LOW times that; and but for
    the end of peak hours each state lasts LEAST_S, so that it does not flap with each job. A clock that stepped back
    makes nobody wait longer.
    """
    if not is_peak:
        return False
    if changed_at is not None and 0 <= now - changed_at < LEAST_S:
        return waited
    return usage.share > (limit * LOW if waited else limit)
