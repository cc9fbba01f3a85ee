"""How long a failed process is left alone before it is started again (DESIGN §9: no restart loop)."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_mesh.domain.backoff import MOST_DOUBLINGS, STEADY_SHARE, Backoff
from gpu_mesh.errors import InvalidValue

times = st.floats(min_value=0.001, max_value=1e6)
chances = st.floats(min_value=0.0, max_value=1.0)
failures = st.integers(min_value=-3, max_value=100_000)


@st.composite
def backoffs(draw: st.DrawFn) -> Backoff:
    first, longest = sorted([draw(times), draw(times)])
    return Backoff(first_s=first, longest_s=longest, healthy_after_s=draw(times))


@given(backoffs(), failures, chances)
def test_delay_is_bounded_and_finite(backoff: Backoff, count: int, chance: float) -> None:
    delay = backoff.delay_s(count, chance)
    ceiling = backoff.ceiling_s(count)
    assert math.isfinite(delay)
    assert 0.0 <= ceiling * STEADY_SHARE <= delay <= ceiling <= backoff.longest_s


@given(backoffs(), failures)
def test_ceiling_never_falls_with_more_failures(backoff: Backoff, count: int) -> None:
    assert backoff.ceiling_s(count) <= backoff.ceiling_s(count + 1)


@given(backoffs(), failures)
def test_only_a_failure_costs_time(backoff: Backoff, count: int) -> None:
    assert (backoff.ceiling_s(count) > 0) == (count >= 1)


@given(backoffs())
def test_ceiling_starts_at_the_first_and_reaches_the_longest(backoff: Backoff) -> None:
    assert backoff.ceiling_s(1) == backoff.first_s
    assert backoff.ceiling_s(MOST_DOUBLINGS + 1) == backoff.longest_s


@given(backoffs(), st.integers(min_value=0, max_value=1000), times)
def test_a_healthy_run_starts_the_count_again(backoff: Backoff, count: int, ran_s: float) -> None:
    assert backoff.failures_after(count, ran_s) == (1 if ran_s >= backoff.healthy_after_s else count + 1)


def test_defaults_double_from_half_a_second_to_half_a_minute() -> None:
    backoff = Backoff()
    assert [backoff.ceiling_s(n) for n in range(9)] == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]
    assert (backoff.delay_s(3, 0.0), backoff.delay_s(3, 1.0)) == (1.0, 2.0)


@pytest.mark.parametrize("first", [0.0, -1.0, math.nan])
def test_first_wait_must_be_a_time(first: float) -> None:
    with pytest.raises(InvalidValue, match=r"first_s.*above 0"):
        Backoff(first_s=first)


def test_longest_must_not_be_below_first() -> None:
    with pytest.raises(InvalidValue, match=r"longest_s=1\.0: must not be below first_s, which is 2\.0 s"):
        Backoff(first_s=2.0, longest_s=1.0)
