"""Until when a periodic entry counts as sent (DESIGN §9 "schedule resumes; nothing fires twice")."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_mesh.domain.firing import counted_until

times = st.floats(1e9, 2e9)


@pytest.mark.parametrize(
    ("now", "every_s", "counted"),
    [(110.0, 10.0, 110.0), (110.4, 10.0, 110.0), (705.0, 10.0, 700.0), (110.4, None, 110.4), (110.4, 0.0, 110.4)],
)
def test_a_plain_interval_keeps_its_beat(now: float, every_s: float | None, counted: float):
    assert counted_until(100.0, now, every_s) == counted


@given(times, st.floats(0, 1e7), st.none() | st.floats(0.05, 1e6))
def test_what_was_missed_is_sent_once(last: float, passed: float, every_s: float | None):
    """Later than before, so that it is sent; and what counts leaves less than an interval over."""
    now = last + passed
    counted = counted_until(last, now, every_s)
    assert counted > last
    assert counted <= max(now, last + 1e-6)
    if every_s is not None:
        assert now - counted < every_s * (1 + 1e-6) + 1e-6
