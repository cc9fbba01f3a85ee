"""What the mesh knows of a device, and when a type is the one wanted (SPEC P1, P6, N1)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_mesh.domain.device import Device, DeviceKind, type_matches

quick = settings(deadline=None, max_examples=30)

TYPES = [
    "NVIDIA GeForce RTX 4090",
    "RTX 4090",
    "rtx4090",
    "NVIDIA A40",
    "A4000",
    "NVIDIA A100-PCIE-40GB",
    "NVIDIA A100-SXM4-80GB",
    "RTX 2060",
    "NVIDIA GeForce RTX 2060 SUPER",
    "M3 Max (CPU)",
    "Tesla V100-SXM2-16GB",
    "ブースト 9000",
]


@pytest.mark.parametrize(
    ("wanted", "gpu_type"),
    [
        ("RTX 4090", "NVIDIA GeForce RTX 4090"),
        ("rtx4090", "NVIDIA GeForce RTX 4090"),
        ("RTX-4090", "NVIDIA GeForce RTX 4090"),
        ("4090", "NVIDIA GeForce RTX 4090"),
        ("GeForce 4090", "NVIDIA GeForce RTX 4090"),
        ("RTX 4090", "rtx4090"),
        ("A40", "NVIDIA A40"),
        ("a100", "NVIDIA A100-PCIE-40GB"),
        ("A100 40GB", "NVIDIA A100-PCIE-40GB"),
        ("RTX 2060", "NVIDIA GeForce RTX 2060 SUPER"),
        ("rtx 2060 super", "NVIDIA GeForce RTX 2060 SUPER"),
        ("M3 Max", "M3 Max (CPU)"),
        ("m3max", "M3 Max (CPU)"),
    ],
)
def test_types_that_are_the_one_wanted(wanted: str, gpu_type: str):
    """P1: loosely."""
    assert type_matches(wanted, gpu_type)


@pytest.mark.parametrize(
    ("wanted", "gpu_type"),
    [
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("RTX 4090", "NVIDIA GeForce RTX 4080"),
        ("RTX 4090", "NVIDIA GeForce RTX 409"),
        ("RTX 409", "NVIDIA GeForce RTX 4090"),
        ("A40", "NVIDIA RTX A4000"),
        ("A40", "NVIDIA A100-PCIE-40GB"),
        ("A4", "NVIDIA A40"),
        ("A10", "NVIDIA A100-PCIE-40GB"),
        ("A100 80GB", "NVIDIA A100-PCIE-40GB"),
        ("RTX 2060 Super", "NVIDIA GeForce RTX 2060"),
        ("M3 Max", "M3 Pro (CPU)"),
        ("M3", "M30"),
        ("L4", "NVIDIA L40S"),
        ("", "NVIDIA A40"),
        (" -- ", "NVIDIA A40"),
        ("RTX 4090", ""),
    ],
)
def test_types_that_are_another(wanted: str, gpu_type: str):
    """P1: each word must occur whole."""
    assert not type_matches(wanted, gpu_type)


#: Letters that change under case folding, digits that are none to `int`, marks, separators.
ODD = "aZ09 -_()İKßЯé²٣日\u0308\n"


@quick
@given(st.sampled_from(TYPES) | st.text(ODD, max_size=12))
def test_a_type_matches_itself(gpu_type: str):
    """P1: whatever the script it is written in; what has no letter or digit matches nothing."""
    assert type_matches(gpu_type, gpu_type) == any(c.isalnum() for c in gpu_type)


SEPARATORS = st.sampled_from([" ", "  ", "-", "_", " (", "."])


@quick
@given(st.sampled_from(TYPES[:-1]), st.sampled_from([str.upper, str.lower, str.title]), SEPARATORS)
def test_case_and_punctuation_do_not_count(gpu_type: str, recase, separator: str):
    """P1: on either side."""
    other = separator.join(recase(word) for word in gpu_type.replace("-", " ").replace("(", "").split())
    assert type_matches(other, gpu_type)
    assert type_matches(gpu_type, other)


TEXT = st.text(ODD, max_size=4)
GB = st.floats(0, 1000)
DEVICES = st.builds(
    Device,
    name=TEXT,
    node=TEXT,
    kind=st.sampled_from(DeviceKind),
    gpu_type=TEXT,
    memory_gb=GB,
    margin_gb=GB,
    uuid=st.none() | TEXT,
    power=GB,
    cost_per_hour=GB,
    labels=st.dictionaries(TEXT, TEXT, max_size=2),
    engine_url=st.none() | TEXT,
)


@quick
@given(DEVICES)
def test_it_survives_json(device: Device):
    """N1: as the registry keeps it."""
    assert Device.from_dict(json.loads(json.dumps(device.to_dict()))) == device


def test_names_of_a_newer_version_are_ignored():
    """N3: nodes of two versions read each other's registrations; what an older one left out has its default."""
    data = {"name": "gpu0", "node": "n", "kind": "nvidia", "gpu_type": "A40", "memory_gb": 40.0, "tensor_cores": 336}
    assert Device.from_dict(data) == Device(
        name="gpu0", node="n", kind=DeviceKind.NVIDIA, gpu_type="A40", memory_gb=40.0
    )


@quick
@given(DEVICES)
def test_the_budget_is_the_memory_less_the_margin(device: Device):
    """P6: never below nothing."""
    assert device.budget_gb == max(0.0, device.memory_gb - device.margin_gb)


def test_what_counts_as_a_gpu():
    """N1: Apple and endpoints do, a CPU does not."""
    device = Device(name="gpu0", node="n", kind=DeviceKind.APPLE, gpu_type="M3 Max (CPU)", memory_gb=24.0)
    assert device.is_gpu
    assert {kind for kind in DeviceKind if not Device(**{**device.to_dict(), "kind": kind}).is_gpu} == {DeviceKind.CPU}


def test_the_worker_of_a_device():
    """N1: `gpu0@node`."""
    device = Device(name="gpu0", node="n", kind=DeviceKind.FAKE, gpu_type="A40", memory_gb=40.0, labels={"a": "b"})
    assert device.worker == "gpu0@n"
