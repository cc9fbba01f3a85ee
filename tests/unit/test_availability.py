"""When nobody can do realtime work (SPEC R4; domain/availability.py)."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_mesh.domain.availability import Watch, look, serves_devices

PATIENCE_S = 16.0
quick = settings(deadline=None, max_examples=200)
#: Looks: s since the one before, and whether somebody was there.
LOOKS = st.lists(st.tuples(st.sampled_from([-3.0, 0.0, 1.0, 4.0, 8.0, 8.5, 60.0]), st.booleans()), max_size=30)


def watched(looks: list[tuple[float, bool]], start: float = 1000.0) -> list[tuple[float, bool, Watch]]:
    """Each look's time, what it found, and the watch after it."""
    now, watch, found = start, None, []
    for gap, somebody in looks:
        now += gap
        watch = look(watch, now, somebody=somebody, patience_s=PATIENCE_S)
        found.append((now, somebody, watch))
    return found


@quick
@given(LOOKS)
def test_only_who_was_watched_all_the_time_is_out(looks: list[tuple[float, bool]]):
    """R4: never within the patience of somebody's presence, of the first look, of a pause between looks or a clock that
    stepped back."""
    seen = watched(looks)
    for index, (now, _, watch) in enumerate(seen):
        if not watch.is_out(PATIENCE_S):
            continue
        since = next(i for i in range(index, -1, -1) if now - seen[i][0] >= PATIENCE_S)
        assert not any(somebody for _, somebody, _ in seen[since + 1 : index + 1])
        times = [at for at, _, _ in seen[since : index + 1]]
        assert all(0 <= b - a <= PATIENCE_S / 2 for a, b in pairwise(times))


@quick
@given(LOOKS, st.sampled_from([1.0, 4.0, 8.0]))
def test_who_stays_away_is_out_in_time(looks: list[tuple[float, bool]], every: float):
    """R4: whatever was before; and back with the first look that finds somebody."""
    quiet = [(every, False)] * (2 + int(PATIENCE_S / every))
    assert watched([*looks, *quiet])[-1][-1].is_out(PATIENCE_S)
    assert not watched([*looks, *quiet, (every, True)])[-1][-1].is_out(PATIENCE_S)


@pytest.mark.parametrize(
    ("worker", "serves"),
    [("gpu0@n1", True), ("cpu0@n1", True), ("mine@n1", True), ("control@n1", False), ("cpu@n1", False), ("", True)],
)
def test_who_serves_devices(worker: str, serves: bool):
    """DESIGN §1: the workers of the control queue and of CPU queues do not; of a stranger nobody knows."""
    assert serves_devices(worker) is serves
