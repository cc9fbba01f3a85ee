"""Whether a worker's event loop turns: one that hangs must lose its lease (DESIGN §6)."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Pulse"]


class Pulse:
    """Beaten by a timer of the loop, read by the lease's thread. Rests while the loop is not meant to turn.

    Times come from `clock` (s, monotonic).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beaten: float | None = None
        self._excused = clock()
        self._ended = False

    def beat(self) -> None:
        """The loop turns."""
        self._beaten = self._clock()

    def rest(self) -> None:
        """The loop is left: the worker connects anew, or stops."""
        self._beaten = None

    def end(self) -> None:
        """The worker stops: it beats no more."""
        self._ended = True

    def excuse(self) -> None:
        """Redis was away, which the loop may have waited for: count from now."""
        self._excused = self._clock()

    @property
    def still_s(self) -> float:
        """For how long the loop has not turned though it should, s."""
        beaten = self._beaten
        if beaten is None or self._ended:
            return 0.0
        return max(0.0, self._clock() - max(beaten, self._excused))
