"""How long to wait before a failed thing is tried again: exponential, bounded, jittered."""

from __future__ import annotations

from dataclasses import dataclass

from gpu_mesh.errors import InvalidValue

__all__ = ["Backoff"]

#: Longest wait after the first failure, in seconds.
FIRST_S = 0.5

#: Longest wait after any number of failures, in seconds.
LONGEST_S = 30.0

#: What ran this long had recovered: its next failure counts as the first again, in seconds.
HEALTHY_AFTER_S = 60.0

#: Share of a wait that jitter leaves alone: something that fails at once must never be retried at once.
STEADY_SHARE = 0.5

#: Doublings after which any bound in use is long reached; keeps 2^n a finite float.
MOST_DOUBLINGS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waits of `first_s` · 2^(n−1) after the n-th failure in a row, at most `longest_s`, with jitter in [half, full].

    The "equal jitter" of AWS, "Exponential Backoff And Jitter" (2015). All times in seconds.
    Raises `InvalidValue` where the bounds make no sense.
    """

    first_s: float = FIRST_S
    longest_s: float = LONGEST_S
    healthy_after_s: float = HEALTHY_AFTER_S

    def __post_init__(self) -> None:
        if not self.first_s > 0:
            raise InvalidValue("first_s", self.first_s, "must be a time above 0 s")
        if not self.longest_s >= self.first_s:
            raise InvalidValue("longest_s", self.longest_s, f"must not be below first_s, which is {self.first_s} s")

    def ceiling_s(self, failures: int) -> float:
        """The longest wait after that many failures in a row; 0 where nothing failed."""
        if failures < 1:
            return 0.0
        return min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, MOST_DOUBLINGS))

    def delay_s(self, failures: int, chance: float) -> float:
        """The wait after that many failures in a row; `chance` is a random number in [0, 1]."""
        return self.ceiling_s(failures) * (STEADY_SHARE + (1.0 - STEADY_SHARE) * chance)

    def failures_after(self, failures: int, ran_s: float) -> int:
        """Failures in a row, one more just seen, where there had been `failures` and then `ran_s` without one."""
        return 1 if ran_s >= self.healthy_after_s else failures + 1
