"""When internal work waits for lower usage (SPEC Q3; domain/usage.py)."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_mesh.domain.usage import LEAST_S, LOW, Usage, waits

quick = settings(deadline=None, max_examples=200)
DEVICES = 10
#: Looks: s since the one before, busy devices, whether it is peak.
LOOKS = st.lists(
    st.tuples(st.sampled_from([1.0, 10.0, 45.0, 90.0]), st.integers(0, DEVICES), st.booleans()), max_size=40
)
LIMITS = st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0])


def followed(looks: list[tuple[float, int, bool]], limit: float) -> list[tuple[float, int, bool, bool]]:
    """Each look's time, what it found, and whether internal work waits after it."""
    now, waited, changed_at, found = 0.0, False, None, []
    for gap, busy, peak in looks:
        now += gap
        before = waited
        waited = waits(Usage(busy, DEVICES), now, waited=waited, changed_at=changed_at, is_peak=peak, limit=limit)
        changed_at = now if waited != before else changed_at
        found.append((now, busy, peak, waited))
    return found


@quick
@given(LOOKS, LIMITS)
def test_it_waits_for_a_reason(looks: list[tuple[float, int, bool]], limit: float):
    """Q3: in peak hours alone; it begins above the limit, goes on below it, and ends in low usage or with the peak."""
    before = False
    for _, busy, peak, waiting in followed(looks, limit):
        assert peak or not waiting
        if waiting and not before:
            assert busy / DEVICES > limit
        if before and not waiting and peak:
            assert busy / DEVICES <= limit * LOW
        before = waiting


@quick
@given(LOOKS, LIMITS)
def test_it_does_not_flap(looks: list[tuple[float, int, bool]], limit: float):
    """Q3: but for the end of peak hours, each state lasts a minute."""
    seen = [(0.0, 0, True, False), *followed(looks, limit)]
    changes = [at for (*_, was), (at, _, peak, waiting) in pairwise(seen) if was != waiting and peak]
    assert all(later - sooner >= LEAST_S for sooner, later in pairwise(changes))


@quick
@given(LOOKS, LIMITS, st.integers(0, DEVICES))
def test_steady_usage_decides(looks: list[tuple[float, int, bool]], limit: float, busy: int):
    """Q3: whatever was before, after two minutes it waits above the limit, and does not at low usage."""
    waiting = followed([*looks, (90.0, busy, True), (90.0, busy, True)], limit)[-1][-1]
    if busy / DEVICES > limit:
        assert waiting
    if busy / DEVICES <= limit * LOW:
        assert not waiting


def test_a_clock_that_stepped_back_keeps_nobody_waiting():
    """DESIGN §9: the change lies in the future."""
    assert not waits(Usage(0, 4), 100.0, waited=True, changed_at=5000.0, is_peak=True, limit=0.5)


def test_usage_without_devices():
    """Nobody is busy."""
    assert Usage(0, 0).share == 0.0
    assert Usage(5, 4).share == 1.0
