"""Where placement would have a task run (SPEC P2-P4)."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.domain.queues import Band
from gpu_mesh.domain.requirements import Requirements
from gpu_mesh.domain.scoring import WEIGHTS, Condition, Mode, mode_of, node_score


def device(gpu_type: str, memory_gb: float, power: float, cost: float) -> Device:
    return Device(
        name="gpu0",
        node=gpu_type.replace(" ", "-"),
        kind=DeviceKind.NVIDIA,
        gpu_type=gpu_type,
        memory_gb=memory_gb,
        power=power,
        cost_per_hour=cost,
    )


RTX_4090 = device("RTX 4090", 24, 100, 0.10)
A40 = device("A40", 48, 45, 0.40)
RTX_2060 = device("RTX 2060 SUPER", 8, 20, 0.03)
FLEET = [RTX_4090, A40, RTX_2060]


def best(mode: Mode, conditions: dict[str, Condition] | None = None, **needs: object) -> str:
    """Type of the device that is woken."""
    told = conditions or {}
    wanted = Requirements.of(needs)
    fitting = [one for one in FLEET if wanted.memory_gb <= one.budget_gb]
    return max(fitting, key=lambda one: node_score(wanted, one, mode, told.get(one.gpu_type, Condition()))).gpu_type


def test_critical_work_prefers_the_most_powerful_device():
    """P3."""
    assert best(Mode.CRITICAL, memory_gb=2) == "RTX 4090"


def test_training_prefers_the_most_powerful_device():
    """P4: whatever its priority."""
    assert [mode_of(band, "training") for band in Band] == [Mode.CRITICAL] * 4
    assert [mode_of(band) for band in (Band.CRITICAL, Band.HIGH, Band.NORMAL, Band.LOW)] == [
        *(Mode.CRITICAL, Mode.NORMAL, Mode.NORMAL, Mode.LOW)
    ]


def test_low_work_goes_where_it_is_cheap_and_calm():
    """P3, P4: to the least loaded node, cheap work to cheap devices."""
    assert best(Mode.LOW, memory_gb=2) == "RTX 2060 SUPER"
    busy = {"RTX 2060 SUPER": Condition(load=1.0)}
    assert best(Mode.LOW, busy, memory_gb=2) == "RTX 4090"


def test_best_fit_keeps_large_devices_free():
    """P2: of two devices alike in all else the smaller one that fits."""
    small, large = device("A40", 24, 45, 0.4), device("A40", 48, 45, 0.4)
    needs = Requirements.of({"memory_gb": 20})
    for mode in Mode:
        assert node_score(needs, small, mode) > node_score(needs, large, mode)


def test_a_preferred_type_and_a_loaded_model_draw_a_task():
    """P1, P2, P7."""
    assert best(Mode.NORMAL, memory_gb=2, gpu_type="A40") == "A40"
    assert best(Mode.NORMAL, {"A40": Condition(model="m")}, memory_gb=2, model="m") == "A40"


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(
    ("worse", "better"),
    [
        (Condition(load=0.9), Condition(load=0.1)),
        (Condition(health=0.5), Condition()),
        (Condition(model="other"), Condition(model="m")),
    ],
)
def test_each_condition_counts_in_each_mode(mode, worse, better):
    """P2: load, health, model already loaded."""
    needs = Requirements.of({"model": "m", "memory_gb": 4})
    assert node_score(needs, A40, mode, worse) < node_score(needs, A40, mode, better)


def test_more_power_and_less_cost_are_better():
    """P2."""
    needs = Requirements.of({})
    for mode, weights in WEIGHTS.items():
        power = node_score(needs, replace(A40, power=90), mode) - node_score(needs, A40, mode)
        cost = node_score(needs, replace(A40, cost_per_hour=0.1), mode) - node_score(needs, A40, mode)
        assert (power > 0, cost > 0) == (weights.power > 0, weights.cost > 0)


@given(
    st.sampled_from(list(Mode)),
    st.floats(0, 100),
    st.floats(0, 100),
    st.floats(0, 500),
    st.floats(0, 50),
    st.builds(Condition, load=st.floats(0, 1), health=st.floats(0, 1), model=st.sampled_from([None, "m"])),
)
def test_a_score_is_from_0_to_1(mode, needed, memory, power, cost, condition):
    needs = Requirements.of({"memory_gb": needed, "model": "m"})
    assert 0 <= node_score(needs, device("x", memory, power, cost), mode, condition) <= 1.0000001


def test_weights_sum_to_one():
    for weights in WEIGHTS.values():
        assert sum(asdict(weights).values()) == pytest.approx(1)
