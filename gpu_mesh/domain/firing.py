"""Until when a periodic entry counts as sent once it is sent."""

from __future__ import annotations

import math

__all__ = ["counted_until"]


def counted_until(last: float, now: float, every_s: float | None) -> float:
    """An entry last due at `last` is sent at `now`, both in s. Of a plain interval, `every_s`: the last time that it
    was due, so that it keeps its beat and what was missed is sent once; of others now, and never the same again.
    """
    if every_s is None or every_s <= 0 or now - last < every_s:
        return max(now, math.nextafter(last, math.inf))
    return last + math.floor((now - last) / every_s) * every_s
