"""What is wrong with the mesh as a whole (SPEC H7; DESIGN §9): each rule, its fault and its recovery."""

from __future__ import annotations

import pytest

from gpu_mesh.domain import fleet
from gpu_mesh.domain.alert_rules import RULES
from gpu_mesh.domain.alerts import Alert, Level

NONE: frozenset[str] = frozenset()


def one(found: list[Alert]) -> Alert:
    (alert,) = found
    assert alert.rule in RULES
    assert alert.level.name in RULES[alert.rule].levels
    assert alert.text
    assert alert.remedy
    return alert


def test_a_node_is_gone():
    alert = one(fleet.disconnected([fleet.Silent("n1", 42.3, 2)]))
    assert (alert.subject, alert.text) == ("n1", "not heard of for 42 s, with 2 devices; its work moved")
    assert fleet.disconnected([]) == []


@pytest.mark.parametrize(
    ("failed", "total", "stands", "raised"),
    [
        (1, 20, False, False),  # 5 %, not more
        (2, 20, False, True),
        (19, 19, False, False),  # too few to tell
        (6, 100, False, True),
        (5, 100, False, False),
        (5, 100, True, True),  # above four fifths of it: not over yet
        (4, 100, True, False),
        (0, 0, True, False),
    ],
)
def test_failures(failed: int, total: int, stands: bool, raised: bool):
    """H7: more than 5 % of at least 20."""
    held = frozenset({"mesh"}) if stands else NONE
    assert fleet.are_many(failed, total, 0.05, held) is raised


def test_failures_name_what_fails():
    alert = one(fleet.failures(13, 100, {"a": 1, "b": 7, "c": 2, "d": 3}))
    assert alert.text == "13 of 100 tasks failed in 10 min (13%): 7 × b, 3 × d, 2 × c"


@pytest.mark.parametrize(
    ("waiting", "stands", "raised"),
    [(100, False, False), (101, False, True), (100, True, True), (81, True, True), (80, True, False)],
)
def test_a_queue_is_long(waiting: int, stands: bool, raised: bool):
    """H7: more than 100; what went up and down at 100 is one alert."""
    held = frozenset({"customer"}) if stands else NONE
    assert bool(fleet.backlogs([fleet.Depth("customer", waiting, 100)], held)) is raised


def test_a_long_queue_says_that_it_is_closed():
    alert = one(fleet.backlogs([fleet.Depth("ai-batch", 2000, 1000, "ai-batch: window until 18:00")], NONE))
    assert alert.text == "2000 tasks wait, more than 1000; it is closed: ai-batch: window until 18:00"
    assert "gpu-mesh resume ai-batch" in alert.remedy
    assert fleet.backlogs([fleet.Depth("ai-batch", 10**6, 0)], NONE) == []


@pytest.mark.parametrize(
    ("used", "stands", "raised"), [(21.6, False, False), (21.7, False, True), (21.0, True, True), (20.5, True, False)]
)
def test_gpu_memory(used: float, stands: bool, raised: bool):
    """H7: more than 90 % of 24 GB."""
    held = frozenset({"gpu0@n1"}) if stands else NONE
    found = fleet.gpu_memory({"gpu0@n1": (used, 24.0), "gpu1@n1": (1.0, 24.0), "odd@n1": (1.0, 0.0)}, 0.9, held)
    assert bool(found) is raised
    if raised:
        assert one(found).subject == "gpu0@n1"


def test_dead_letters():
    """DESIGN §9: the count and why, by queue; many are graver."""
    letters = [fleet.Buried("customer", "malformed"), fleet.Buried("customer", "delivered 5 times")]
    alert = one(fleet.buried([*letters, letters[0]], 7))
    assert alert.text == "3 new dead letters within an hour: 2 × malformed, 1 × delivered 5 times; 7 in all queues"
    assert (alert.subject, alert.level) == ("customer", Level.ERROR)
    assert one(fleet.buried(letters * 50, 100)).level is Level.CRITICAL
    assert fleet.buried([], 7) == []


def test_tasks_that_nothing_fits():
    """DESIGN §9: with the reasons, the most frequent first."""
    misfits = [
        fleet.Misfits("ai-batch", 3, "needs 80 GB"), fleet.Misfits("ai-batch", 9_000, "no label eu"),
        fleet.Misfits("ai-batch", 997, "needs 80 GB"),
    ]  # fmt: skip
    alert = one(fleet.unschedulable(misfits))
    assert alert.text == "10000 tasks that no device online can run: 9000 × no label eu; 1000 × needs 80 GB"
    assert len(one(fleet.unschedulable([fleet.Misfits("ai-batch", 1, "no GPU, " * 500)])).text) < 300
    assert fleet.unschedulable([]) == []


def test_realtime_is_refused():
    assert one(fleet.realtime("no device is there", "ai-realtime")).text == "tasks are refused: no device is there"
    assert fleet.realtime(None, "ai-realtime") == []


@pytest.mark.parametrize(
    ("used", "stands", "level"),
    [
        (900, False, None), (901, False, Level.ERROR), (980, False, Level.CRITICAL), (860, True, Level.ERROR),
        (855, True, None),
    ],
)  # fmt: skip
def test_redis_is_full(used: int, stands: bool, level: Level | None):
    held = frozenset({"redis"}) if stands else NONE
    found = fleet.redis_memory(used, 1000, True, held)
    assert [alert.level for alert in found] == ([level] if level else [])
    assert fleet.redis_memory(used, 0, False, held) == []
