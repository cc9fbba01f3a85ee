"""From checks to states (SPEC H2, H3), pure."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_mesh.domain.health import (
    CLAIMABLE,
    FLAP_CHECKS,
    FLAPS,
    HALF_LIFE_S,
    SETTLE_CHECKS,
    Finding,
    Health,
    Severity,
    State,
    check,
)

FAILURE = Finding(Severity.FAILURE, "engine", "it is silent", "start it")
FAULT = Finding(Severity.FAULT, "gpu", "fell off the bus", "reseat it")
WARNING = Finding(Severity.WARNING, "disk", "98 % full", "free some")
EVERY_S = 30.0


def after(*checks: list[Finding], health: Health | None = None) -> Health:
    """The health after these checks, EVERY_S apart."""
    found = health or Health()
    for findings in checks:
        found = check(found, found.checked_at + EVERY_S, findings)
    return found


def test_unknown_until_it_was_checked():
    assert Health().state is State.UNKNOWN
    assert Health().is_claimable
    assert Health().success_rate is None


@pytest.mark.parametrize(
    ("strikes", "state"),
    [
        (0, State.HEALTHY),
        (1, State.DEGRADED),
        (2, State.DEGRADED),
        (3, State.UNHEALTHY),
        (4, State.UNHEALTHY),
        (5, State.OFFLINE),
        (9, State.OFFLINE),
    ],
)
def test_strikes_make_the_state(strikes: int, state: State):
    """H2, number by number."""
    found = after([], *([FAILURE] for _ in range(strikes)))
    assert (found.state, found.strikes) == (state, strikes)
    assert found.is_claimable is (state in CLAIMABLE) is (strikes < 3)


def test_a_check_that_passes_makes_healthy_at_once():
    found = after([], *[[FAILURE]] * 7, [])
    assert (found.state, found.strikes, found.failing_since) == (State.HEALTHY, 0, 0.0)


def test_a_fault_is_unhealthy_at_once():
    """DESIGN §8: GPU_IS_LOST and its like; two checks later it is offline."""
    assert after([], [FAULT]).state is State.UNHEALTHY
    assert after([], [FAULT], [FAULT]).state is State.UNHEALTHY
    assert after([], [FAULT], [FAULT], [FAULT]).state is State.OFFLINE
    assert after([FAILURE], [FAILURE], [FAULT]).strikes == 3


def test_a_warning_degrades_while_it_lasts_and_is_no_strike():
    found = after([], *[[WARNING]] * 6)
    assert (found.state, found.strikes, found.failed) == (State.DEGRADED, 0, 0)
    assert after([], health=found).state is State.HEALTHY


def test_since_and_totals():
    """H3: consecutive failures, last check, totals."""
    found = after([], [], [FAILURE], [FAILURE])
    assert (found.since, found.failing_since, found.checked_at) == (3 * EVERY_S, 3 * EVERY_S, 4 * EVERY_S)
    assert (found.checks, found.failed, found.success_rate) == (4, 2, 50.0)
    assert found.findings == (FAILURE,)


def test_who_falls_again_and_again_flaps():
    """It is degraded at best, until it has passed SETTLE_CHECKS in a row."""
    falls = [[], [FAILURE]] * FLAPS
    found = after(*falls)
    assert found.flapping
    for passed in range(1, SETTLE_CHECKS):
        found = after([], health=found)
        assert (found.state, found.flapping) == (State.DEGRADED, True), passed
    found = after([], health=found)
    assert (found.state, found.flapping) == (State.HEALTHY, False)
    # What led to it counts no more.
    assert not after([FAILURE], [], [FAILURE], [], health=found).flapping


def test_falls_that_lie_far_apart_are_no_flapping():
    quiet = [[]] * FLAP_CHECKS
    assert not after([], [FAILURE], *quiet, [FAILURE], *quiet, [FAILURE]).flapping


def test_one_long_outage_is_no_flapping():
    assert not after([], *[[FAILURE]] * 100, [], [FAILURE]).flapping


def test_the_uptime_score_is_half_an_hour_after_a_long_outage():
    """The formula in the module: half after HALF_LIFE_S, however often is checked."""
    down = after([], *[[FAILURE]] * 10_000)
    assert down.score == pytest.approx(0.0, abs=1e-6)
    for every in (1.0, 30.0, 900.0):
        found = down
        while found.checked_at < down.checked_at + HALF_LIFE_S:
            found = check(found, found.checked_at + every, [])
        assert found.score == pytest.approx(50.0, abs=0.01)
    assert after(*[[WARNING]] * 10_000).score == pytest.approx(50.0)


def test_the_uptime_score_is_of_the_time_that_was_seen():
    """A first check that failed says nothing of the hour before it: whoever came up late is not down for long."""
    assert after([FAILURE]).score == 0.0
    assert after([FAILURE], []).score == 100.0
    assert after([FAILURE], [], [FAILURE]).score == pytest.approx(50.0, abs=1.0)


found_lists = st.lists(st.lists(st.sampled_from([FAILURE, FAULT, WARNING]), max_size=2), max_size=60)


@given(found_lists, st.lists(st.floats(-100, 1e4), min_size=60, max_size=60))
def test_whatever_is_found_the_figures_stay_sane(checks: list[list[Finding]], pauses: list[float]):
    """Also by a clock that steps back."""
    health, now = Health(), 1e9
    for findings, pause in zip(checks, pauses, strict=False):
        now += pause
        health = check(health, now, findings)
        failed = any(finding.severity is not Severity.WARNING for finding in findings)
        assert (health.strikes > 0) is failed
        assert 0.0 <= health.score <= 100.0
        assert not math.isnan(health.score)
        assert len(health.falls) <= FLAP_CHECKS
        assert (health.state is State.HEALTHY) is (not findings and not health.flapping)
    assert health.checks == len(checks)


@given(found_lists)
def test_it_survives_json(checks: list[list[Finding]]):
    health = after(*checks)
    assert Health.from_dict(json.loads(json.dumps(health.to_dict()))) == health


def test_placement_prefers_who_is_well():
    """SPEC P2: degraded scores lower, unhealthy nothing."""
    factors = [after([]).factor, after([], [WARNING]).factor, after([], [FAULT]).factor]
    assert factors == sorted(factors, reverse=True)
    assert (factors[0], factors[2]) == (1.0, 0.0)
