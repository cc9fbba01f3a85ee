"""What is read from histograms, shares and cost (SPEC H3, H8, P4): the pure rules of domain/stats.py."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_mesh.domain.stats import (
    BOUNDS_S,
    ENDS,
    RATIO,
    Outcome,
    bucket,
    busy_share,
    cost,
    failure_share,
    mean,
    quantile,
)

TIMES = st.floats(0, 2 * BOUNDS_S[-1], allow_nan=False)


@given(TIMES)
def test_a_time_is_in_the_bucket_whose_bounds_hold_it(seconds):
    number = bucket(seconds)
    assert number == 0 or BOUNDS_S[number - 1] < seconds
    assert number == len(BOUNDS_S) or seconds <= BOUNDS_S[number]


@given(st.lists(TIMES, min_size=1), st.sampled_from([0.0, 0.01, 0.5, 0.9, 0.95, 0.99, 1.0]))
def test_a_quantile_is_off_by_less_than_the_ratio_of_two_bounds(times, q):
    exact = sorted(times)[max(1, math.ceil(q * len(times) - 1e-9)) - 1]
    said = quantile(Counter(map(bucket, times)), q)
    assert said is not None
    if exact <= BOUNDS_S[0]:
        assert 0 < said < BOUNDS_S[0]
    elif exact > BOUNDS_S[-1]:
        assert said == BOUNDS_S[-1]
    else:
        assert 1 / (RATIO * 1.001) < said / exact < RATIO * 1.001


def test_quantiles_of_nothing_and_of_an_even_spread():
    assert quantile({}, 0.5) is None
    counts = Counter(bucket(i / 1000) for i in range(1, 1001))  # 1 ms to 1 s, evenly
    assert quantile(counts, 0.5) == pytest.approx(0.5, rel=0.1)
    assert quantile(counts, 0.99) == pytest.approx(0.99, rel=0.1)


@given(st.lists(TIMES, min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_quantiles_do_not_fall(times, a, b):
    counts = Counter(map(bucket, times))
    assert quantile(counts, min(a, b)) <= quantile(counts, max(a, b))


@pytest.mark.parametrize("wrong", [-1.0, math.nan])
def test_what_is_no_time_counts_as_none(wrong):
    assert bucket(wrong) == 0


def test_shares_cost_and_means():
    outcomes = {Outcome.SUCCESS: 90, Outcome.FAILURE: 7, Outcome.DEAD: 3, Outcome.REVOKED: 50, Outcome.RETRY: 9}
    assert failure_share(outcomes) == pytest.approx(0.1)  # H7: cancelled and retried ones do not count
    assert failure_share({Outcome.PREEMPTED: 4}) is None
    assert Outcome.REVOKED not in ENDS
    assert busy_share(30, 15, 60) == 0.75
    assert busy_share(900, 0, 60) == 1.0  # a long run counts where it ended
    assert busy_share(1, 1, 0) == 0.0
    assert cost(1800, 0.4) == pytest.approx(0.2)
    assert mean(0, 0) is None
    assert mean(3, 2) == 1.5


def test_the_docs_name_every_outcome():
    text = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text()
    table = text.partition("| outcome |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [outcome.value for outcome in Outcome]
