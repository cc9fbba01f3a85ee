"""Statistics, pure: histograms and what is read from them, shares, cost (SPEC H3, H8, P4).

A histogram counts times in buckets whose bounds grow by RATIO: a bucket holds what is above the bound before it and not
above its own, the first one all from 0 on, and the last one, number len(BOUNDS_S), what is beyond the greatest bound.

    quantile q of n times   the time of rank ⌈q·n⌉, as if its bucket were filled evenly on a log scale:
                            lo · (hi/lo)^((rank − before − ½) / in the bucket)
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from enum import StrEnum

__all__ = [
    "BOUNDS_S",
    "ENDS",
    "FAILURES",
    "RATIO",
    "RUNS",
    "Outcome",
    "bucket",
    "busy_share",
    "cost",
    "failure_share",
    "mean",
    "quantile",
]

#: Buckets for each factor of ten, so by what each bound is greater than the one before: 1.58.
PER_DECADE = 5
RATIO = 10 ** (1 / PER_DECADE)
#: Upper bounds of the buckets, s: from 1 ms to 100 000 s (28 h).
BOUNDS_S: tuple[float, ...] = tuple(float(f"{1e-3 * RATIO**i:.4g}") for i in range(8 * PER_DECADE + 1))


class Outcome(StrEnum):
    """How a run ended, and what became of its task."""

    SUCCESS = "success"
    FAILURE = "failure"
    #: Cancelled when a worker had it; what is taken out of its queue had no run.
    REVOKED = "revoked"
    #: To the dead letters.
    DEAD = "dead"
    #: Runs again later, as the task itself asked.
    RETRY = "retry"
    #: Ended without a result of its own, as a task does that replaces itself.
    IGNORED = "ignored"
    #: Made room for more urgent work; goes on in another run.
    PREEMPTED = "preempted"
    #: Given back by a worker that stops; goes on in another run.
    HANDED_BACK = "handed_back"
    #: Its worker or process died; runs again.
    LOST = "lost"


#: Outcomes that fail a task, and those that end one and count for the share of failures.
FAILURES = frozenset({Outcome.FAILURE, Outcome.DEAD})
ENDS = FAILURES | {Outcome.SUCCESS}
#: Outcomes of runs that came to their own end: histograms and mean times are of these.
RUNS = frozenset({Outcome.SUCCESS, Outcome.FAILURE, Outcome.RETRY})


def bucket(seconds: float) -> int:
    """The bucket of a time; of what is no time (less than 0, NaN) the first."""
    return bisect_left(BOUNDS_S, seconds) if seconds > 0 else 0


def quantile(counts: Mapping[int, int], q: float) -> float | None:
    """The time, s, that a share `q` (0 to 1) of those counted is not above; None without any.

    Off by less than RATIO either way between 1 ms and the greatest bound; below it lies between 0 and 1 ms. What is
    beyond the greatest bound is said to be that.
    """
    total = sum(counts.values())
    if not total:
        return None
    rank, before = max(1, math.ceil(q * total - 1e-9)), 0
    for number in sorted(counts):
        if before + counts[number] >= rank:
            return _within(number, (rank - before - 0.5) / counts[number])
        before += counts[number]
    raise AssertionError("a rank beyond the total")


def _within(number: int, share: float) -> float:
    if number >= len(BOUNDS_S):
        return BOUNDS_S[-1]
    if number == 0:
        return BOUNDS_S[0] * share
    low, high = BOUNDS_S[number - 1 : number + 1]
    return float(low * (high / low) ** share)


def mean(total: float, count: int) -> float | None:
    """The mean; None of nothing."""
    return total / count if count else None


def failure_share(outcomes: Mapping[Outcome, int]) -> float | None:
    """Of the tasks that ended, the share that failed, 0 to 1; None where none ended. Cancelled ones do not count."""
    ended = sum(outcomes.get(outcome, 0) for outcome in ENDS)
    return sum(outcomes.get(outcome, 0) for outcome in FAILURES) / ended if ended else None


def busy_share(ran_s: float, running_s: float, span_s: float) -> float:
    """The share of a span in which a device ran something, 0 to 1.

    `ran_s` is what the runs took that ended in it, counted where they ended; `running_s` how long what runs now has
    been running within it.
    """
    return min(1.0, (ran_s + running_s) / span_s) if span_s > 0 else 0.0


def cost(ran_s: float, cost_per_hour: float) -> float:
    """What running for so long cost, in the currency of the device's price."""
    return ran_s * cost_per_hour / 3600
