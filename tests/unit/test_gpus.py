"""What is known of GPU types in advance (SPEC P2-P4)."""

from __future__ import annotations

import pytest

from gpu_mesh.domain.gpus import GPUS, PROCESSOR, UNKNOWN, known, processor


@pytest.mark.parametrize(
    ("gpu_type", "entry"),
    [
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "RTX 4090 Laptop"),
        ("NVIDIA GeForce RTX 2060 SUPER", "RTX 2060 Super"),
        ("NVIDIA GeForce RTX 2060", "RTX 2060"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX 4070 Ti Super"),
        ("NVIDIA A40", "A40"),
        ("M3 Max (CPU)", "M3 Max"),
        ("Apple M3", "M3"),
        ("NVIDIA RTX A6000", "A6000"),
        ("NVIDIA RTX A4000", "A4000"),
        ("Quadro RTX 6000", "Quadro RTX 6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100-PCIE-40GB", "A100"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("Tesla T4", "T4"),
        ("Tesla V100-SXM2-16GB", "V100"),
    ],
)
def test_the_most_specific_entry_counts(gpu_type: str, entry: str) -> None:
    """P1, P2: names as drivers write them find their entry."""
    assert known(gpu_type) is not UNKNOWN
    assert known(gpu_type) == GPUS[entry]


@pytest.mark.parametrize("entry", GPUS)
def test_every_entry_finds_itself(entry: str) -> None:
    """P2: no entry hides behind another, and all say something."""
    assert known(entry) == GPUS[entry]
    assert GPUS[entry].power > PROCESSOR.power
    assert GPUS[entry].cost_per_hour > 0


def test_the_reference_is_100() -> None:
    """P3: power is relative to an RTX 4090."""
    assert known("RTX 4090").power == 100.0


def test_the_first_fleet_ranks_as_it_should() -> None:
    """P3: critical work prefers the most powerful; a processor comes last."""
    fleet = ["RTX 4090", "NVIDIA A40", "NVIDIA GeForce RTX 2060 SUPER", "M3 Max (CPU)"]
    powers = [known(gpu_type).power for gpu_type in fleet]
    assert powers == sorted(powers, reverse=True)
    assert powers[-1] > processor("Xeon (CPU)").power


@pytest.mark.parametrize("gpu_type", ["", "NVIDIA RTX 9999", "Radeon RX 7900 XTX", "(CPU)"])
def test_an_unknown_type_is_middling(gpu_type: str) -> None:
    """P2: neither sought nor shunned."""
    assert known(gpu_type) == UNKNOWN
    powers = [facts.power for facts in GPUS.values()]
    assert min(powers) < UNKNOWN.power < max(powers)


def test_overrides_win() -> None:
    """P4: the operator's figures, each on its own, also 0, also for a type that the table lacks."""
    assert known("NVIDIA GeForce RTX 4090", powers={"RTX 4090": 90}).power == 90
    assert known("NVIDIA GeForce RTX 4090", powers={"RTX 4090": 90}).cost_per_hour == GPUS["RTX 4090"].cost_per_hour
    assert known("NVIDIA GeForce RTX 4090", costs={"RTX 4090": 0.0}).cost_per_hour == 0.0
    assert known("Radeon RX 7900 XTX", costs={"7900 XTX": 0.2}).cost_per_hour == 0.2
    assert known("NVIDIA A40", costs={"RTX 4090": 9.0}) == GPUS["A40"]


def test_the_most_specific_override_counts() -> None:
    """P4: whatever the order they are written in."""
    costs = {"RTX 2060 Super": 2.0, "RTX 2060": 1.0, "RTX": 0.5}
    for order in (costs, dict(reversed(costs.items()))):
        assert known("NVIDIA GeForce RTX 2060 SUPER", costs=order).cost_per_hour == 2.0
        assert known("NVIDIA GeForce RTX 2060", costs=order).cost_per_hour == 1.0


def test_a_processor_is_one_whatever_its_name() -> None:
    """N1: a Mac that may not use its GPU is no M3 Max."""
    assert processor("M3 Max (CPU)") == PROCESSOR
    assert processor("Intel Xeon (CPU)", powers={"Xeon": 3.0}).power == 3.0
