"""When an engine is restarted (SPEC H4, H5), pure."""

from __future__ import annotations

import pytest

from gpu_mesh.domain.health import Finding, Health, Severity, check
from gpu_mesh.domain.recovery import Plan, Wait, pause_s, plan

SILENT = Finding(Severity.FAILURE, "engine", "connection refused")
LOST = Finding(Severity.FAULT, "gpu", "off the bus")
GONE = Finding(Severity.FAILURE, "worker", "not there")


def failing(*findings: Finding, times: int = 3) -> Health:
    health = check(Health(), 0.0, [])
    for number in range(times):
        health = check(health, 30.0 * (number + 1), findings)
    return health


def test_pauses_double_up_to_five_minutes():
    """Issue 6: 0, 10·2^(n−1) ≤ 300 s."""
    assert [pause_s(attempt) for attempt in range(1, 10)] == [0, 10, 20, 40, 80, 160, 300, 300, 300]
    assert pause_s(10_000) == 300


def test_the_first_restart_is_at_once_and_the_next_after_a_pause():
    ill = failing(SILENT)
    assert plan(ill, 90.0, [], is_busy=False) == Plan(1)
    assert plan(ill, 104.9, [95.0], is_busy=False) == Plan(2, Wait.PAUSE)
    assert plan(ill, 105.0, [95.0], is_busy=False) == Plan(2)
    assert plan(ill, 124.0, [95.0, 105.0], is_busy=False) == Plan(3, Wait.PAUSE)


def test_attempts_of_an_earlier_trouble_do_not_count():
    assert plan(failing(SILENT), 90.0, [1.0, 2.0, 29.0], is_busy=False) == Plan(1)


@pytest.mark.parametrize(
    ("health", "busy", "wait"),
    [
        (failing(SILENT, times=2), False, Wait.WELL),
        (failing(), False, Wait.WELL),
        (failing(SILENT, LOST, times=1), False, Wait.HARDWARE),
        (failing(GONE), False, Wait.NO_ENGINE),
        (failing(SILENT), True, Wait.BUSY),
    ],
)
def test_what_no_restart_helps(health: Health, busy: bool, wait: Wait):
    """H4: never for hardware faults; one at a time."""
    assert plan(health, 1000.0, [], is_busy=busy).wait is wait
