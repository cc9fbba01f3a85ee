"""How often somebody may do something: a token bucket for each."""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["Rates"]

#: Of so many is known how much they did; beyond, whoever did nothing for longest is forgotten, and begins anew.
KEPT = 10_000


class Rates:
    """`rate` things a second for each key, and `burst` at once."""

    def __init__(self, rate: float, burst: float, kept: int = KEPT) -> None:
        self._rate, self._burst, self._kept = rate, max(1.0, burst), kept
        #: What each has left, and when that was so; whoever did something last is last.
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, now: float) -> float:
        """0 where one more is allowed at `now` (s, monotonic), and it is counted; else in how many s it will be."""
        left, at = self._left.get(key, (self._burst, now))
        left = min(self._burst, left + max(0.0, now - at) * self._rate)
        allowed = left >= 1.0
        self._left[key] = left - allowed, now
        self._left.move_to_end(key)
        if len(self._left) > self._kept:
            self._left.popitem(last=False)
        return 0.0 if allowed else (1.0 - left) / self._rate
