"""What a task needs, and whether a device has it (SPEC P1, P2, P6, N1)."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.domain.requirements import ANYTHING, MAX_GPU_COUNT, MAX_MEMORY_GB, REQUIREMENT_FIELDS, Requirements, fits
from gpu_mesh.errors import InvalidTask

quick = settings(deadline=None, max_examples=30)

GPU = Device(
    name="gpu0",
    node="office-1",
    kind=DeviceKind.NVIDIA,
    gpu_type="NVIDIA GeForce RTX 4090",
    memory_gb=24.0,
    margin_gb=1.0,
    labels={"trust": "owned", "site": "office"},
    models=("gemma4:e4b", "gemma4:12b"),
)
CPU = replace(GPU, name="cpu0", kind=DeviceKind.CPU, gpu_type="Xeon (CPU)")


@pytest.mark.parametrize(
    ("field", "given", "kept"),
    [
        ("memory_gb", 6, 6.0),
        ("memory_gb", 4.5, 4.5),
        ("memory_gb", 0, 0.0),
        ("memory_gb", MAX_MEMORY_GB, MAX_MEMORY_GB),
        ("gpu_count", 0, 0),
        ("gpu_count", MAX_GPU_COUNT, MAX_GPU_COUNT),
        ("gpu_type", " RTX 4090 ", "RTX 4090"),
        ("model", "gemma4:e4b", "gemma4:e4b"),
        ("labels", {"trust": "owned"}, {"trust": "owned"}),
        ("labels", {}, {}),
        ("node", "office-1", "office-1"),
        ("device", "gpu0@office-1", "gpu0@office-1"),
        ("require_gpu_type", False, False),
        ("remote", True, True),
    ],
)
def test_values_that_are_right(field: str, given: object, kept: object):
    """P1: each field of its own type."""
    value = getattr(Requirements.of({field: given}), field)
    assert value == kept
    assert type(value) is type(kept)


WRONG = {
    "memory_gb": [-1, -0.001, math.nan, math.inf, -math.inf, True, "6", "6 GB", [6], MAX_MEMORY_GB + 1, 10**400, 1j],
    "gpu_count": [-1, 1.5, 1.0, True, "1", MAX_GPU_COUNT + 1, math.nan, [1]],
    "gpu_type": ["", "  ", 4090, True, ["RTX 4090"], b"RTX 4090"],
    "require_gpu_type": [1, 0, "yes", "True", ["RTX 4090"]],
    "model": ["", 7, ["m"]],
    "labels": [["trust"], "trust=owned", {"trust": 1}, {1: "owned"}, {"trust": None}, [("trust", "owned")], 1, True],
    "node": ["", 1, ["n"]],
    "device": ["", 0, ["gpu0"]],
    "remote": [1, 0, "yes", "True", [True]],
    "extra": [1, "epochs=3", {1: 2}],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
def test_values_that_are_wrong(field: str, value: object):
    """P1: refused, naming field and value, and saying what is allowed."""
    with pytest.raises(InvalidTask) as caught:
        Requirements.of({field: value})
    assert caught.value.field == field
    assert caught.value.value is value
    assert len(caught.value.remedy) > 10


def test_every_field_is_checked():
    """P1: the fields a caller may name are those with a table of wrong values above."""
    assert frozenset(WRONG) - {"extra"} == REQUIREMENT_FIELDS
    assert {"memory_gb", "gpu_count", "gpu_type", "require_gpu_type", "model", "labels"} <= REQUIREMENT_FIELDS


def test_none_means_not_given():
    """P1: in every field."""
    assert Requirements.of(dict.fromkeys(REQUIREMENT_FIELDS)) == ANYTHING == Requirements.of({})


def test_names_are_text():
    """P1: a name that is none is refused."""
    with pytest.raises(InvalidTask, match="names of requirements are strings"):
        Requirements.of({5: 1})


def test_a_required_type_must_be_named():
    """P1: `require_gpu_type` alone asks for nothing."""
    with pytest.raises(InvalidTask, match="needs gpu_type as well") as caught:
        Requirements.of({"require_gpu_type": True})
    assert caught.value.field == "require_gpu_type"
    assert Requirements.of({"require_gpu_type": True, "gpu_type": "A40"}).require_gpu_type


def test_free_fields_are_kept():
    """P1: `epochs`, `batch_size`, whatever they hold; and they decide nothing."""
    needs = Requirements.of({"epochs": 3, "batch_size": None, "memory_gb": 6, "extra": {"epochs": 1, "lr": 0.1}})
    assert needs.extra == {"epochs": 3, "batch_size": None, "lr": 0.1}
    assert fits(needs, GPU)


def test_what_was_given_may_change_afterwards():
    """P1: requirements are the caller's words at the time of the call."""
    labels = {"trust": "owned"}
    needs = Requirements.of({"labels": labels})
    labels["trust"] = "rented"
    assert needs.labels == {"trust": "owned"}


WORDS = st.text("abc 1", min_size=1, max_size=5).filter(str.strip)
LABELS = st.dictionaries(st.sampled_from(["trust", "site"]), st.sampled_from(["owned", "office", ""]))
GB = st.floats(0, 100)
JSON = st.none() | st.booleans() | st.integers() | st.text('é"0 ', max_size=3) | st.lists(st.integers(), max_size=2)
GIVEN = st.fixed_dictionaries(
    {},
    optional={
        "memory_gb": GB | st.integers(0, 100),
        "gpu_count": st.integers(0, MAX_GPU_COUNT),
        "gpu_type": st.sampled_from(["RTX 4090", "A40", "Xeon"]),
        "model": WORDS,
        "labels": LABELS,
        "node": st.sampled_from(["office-1", "office-2"]),
        "device": st.sampled_from(["gpu0", "cpu0", "gpu0@office-1", "gpu0@office-2"]),
        "remote": st.booleans(),
        "extra": st.dictionaries(WORDS, JSON, max_size=2),
        "epochs": JSON,
    },
)
NEEDS = GIVEN.map(Requirements.of)
DEVICES = st.builds(
    Device,
    name=st.sampled_from(["gpu0", "cpu0"]),
    node=st.sampled_from(["office-1", "office-2"]),
    kind=st.sampled_from(DeviceKind),
    gpu_type=st.sampled_from(["NVIDIA GeForce RTX 4090", "NVIDIA A40", "Xeon (CPU)"]),
    memory_gb=GB,
    margin_gb=st.floats(0, 10),
    labels=LABELS,
    models=st.lists(WORDS, max_size=2).map(tuple),
)


@quick
@given(GIVEN)
def test_what_travels_is_read_back(given_: dict[str, object]):
    """P1: through the message header, which is JSON."""
    needs = Requirements.of(given_)
    assert Requirements.of(json.loads(json.dumps(needs.to_dict()))) == needs


@quick
@given(NEEDS)
def test_what_holds_its_default_does_not_travel(needs: Requirements):
    """P1: the header says what was asked for, no more."""
    assert ANYTHING.to_dict() == {}
    for name, value in needs.to_dict().items():
        assert value != getattr(ANYTHING, name)


@quick
@given(NEEDS, DEVICES, st.booleans())
def test_there_is_a_reason_if_and_only_if_it_does_not_fit(needs: Requirements, device: Device, cpu_counts: bool):
    """P2: and it names the device."""
    fit = fits(needs, device, cpu_counts=cpu_counts)
    assert bool(fit) == (fit.reason is None)
    assert fit or device.worker in str(fit.reason)


@quick
@given(NEEDS, DEVICES, GB)
def test_asking_for_more_memory_never_turns_a_misfit_into_a_fit(needs: Requirements, device: Device, more: float):
    """P2: memory is monotone."""
    if fits(replace(needs, memory_gb=needs.memory_gb + more), device):
        assert fits(needs, device)


@quick
@given(NEEDS, DEVICES, st.booleans())
def test_a_preferred_type_never_makes_a_misfit(needs: Requirements, device: Device, cpu_counts: bool):
    """P1: `gpu_type` is a preference."""
    indifferent = replace(needs, gpu_type=None)
    assert fits(needs, device, cpu_counts=cpu_counts) == fits(indifferent, device, cpu_counts=cpu_counts)


@quick
@given(NEEDS, DEVICES)
def test_a_cpu_runs_only_what_lets_it(needs: Requirements, device: Device):
    """N1: `gpu_count=0`, or CPUs count in this mesh; a GPU runs either kind."""
    cpu = replace(device, kind=DeviceKind.CPU)
    if fits(needs, cpu):
        assert needs.gpu_count == 0
    if fits(replace(needs, gpu_count=0), cpu):
        assert fits(replace(needs, gpu_count=1), cpu, cpu_counts=True)
        assert fits(needs if needs.gpu_count < 2 else ANYTHING, replace(device, kind=DeviceKind.NVIDIA))


@quick
@given(NEEDS, DEVICES)
def test_labels_are_hard(needs: Requirements, device: Device):
    """P1: every one, with that very value."""
    if fits(needs, device, cpu_counts=True):
        assert needs.labels.items() <= device.labels.items()


def fit(on: Device, /, *, cpu_counts: bool = False, **needs: object):
    return fits(Requirements.of(needs), on, cpu_counts=cpu_counts)


@pytest.mark.parametrize(
    "needs",
    [
        {},
        {"memory_gb": 23},
        {"gpu_count": 0},
        {"gpu_count": 2},
        {"gpu_type": "A40"},
        {"gpu_type": "RTX 4090", "require_gpu_type": True},
        {"labels": {"trust": "owned", "site": "office"}},
        {"node": "office-1"},
        {"device": "gpu0"},
        {"device": "gpu0@office-1"},
        {"node": "office-1", "device": "gpu0@office-1"},
        {"model": "gemma4:e4b"},
        {"epochs": 3},
    ],
)
def test_needs_that_are_met(needs: dict[str, object]):
    """P1, P2: one by one."""
    assert fit(GPU, **needs)
    assert fit(GPU, **needs).reason is None


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        ({"memory_gb": 23.5}, "needs 23.5 GB; gpu0@office-1 offers 23 GB (24 GB less 1 GB margin)"),
        (
            {"gpu_type": "A40", "require_gpu_type": True},
            "needs a A40; gpu0@office-1 is a NVIDIA GeForce RTX 4090",
        ),
        ({"labels": {"trust": "rented"}}, "needs label trust=rented; gpu0@office-1 has trust=owned"),
        ({"model": "llama3"}, "needs model llama3; gpu0@office-1 is kept for gemma4:e4b, gemma4:12b"),
        ({"labels": {"zone": "eu"}}, "needs label zone=eu; gpu0@office-1 has no such label"),
        ({"node": "office-2"}, "pinned to node office-2; this is gpu0@office-1"),
        ({"device": "gpu1"}, "pinned to device gpu1; this is gpu0@office-1"),
        ({"device": "gpu0@office-2"}, "pinned to device gpu0@office-2; this is gpu0@office-1"),
    ],
)
def test_the_reason_names_need_and_device(needs: dict[str, object], reason: str):
    """P2: what was asked, who was asked, what it has."""
    assert fit(GPU, **needs).reason == reason


def test_the_margin_counts():
    """P6: memory less the margin is what a job may ask for, to the last bit."""
    assert fit(replace(GPU, memory_gb=8.0, margin_gb=3.0), memory_gb=5.0)
    assert not fit(replace(GPU, memory_gb=8.0, margin_gb=3.0), memory_gb=5.0001)
    assert not fit(replace(GPU, memory_gb=2.0, margin_gb=3.0), memory_gb=0.1)
    assert fit(replace(GPU, memory_gb=2.0, margin_gb=3.0))


def test_a_cpu():
    """N1: only where it counts, or where no GPU is asked for."""
    assert fit(CPU).reason == "needs a GPU; cpu0@office-1 is a CPU"
    assert fit(CPU, gpu_count=0)
    assert fit(CPU, cpu_counts=True)
    assert not fit(CPU, memory_gb=99, gpu_count=0)


@pytest.mark.parametrize("kind", [DeviceKind.ENDPOINT, DeviceKind.APPLE, DeviceKind.CPU])
def test_what_stands_alone_is_not_two_gpus(kind: DeviceKind):
    """P1: several GPUs are several of one node."""
    misfit = fit(replace(GPU, kind=kind), gpu_count=2, cpu_counts=True)
    assert misfit.reason == "needs 2 GPUs of one node; gpu0@office-1 stands alone"


@quick
@given(NEEDS, DEVICES)
def test_an_address_runs_only_what_may_run_there(needs: Requirements, device: Device):
    """N5: what needs a process beside the device stays away from it, also what says nothing; others do not care."""
    endpoint = replace(device, kind=DeviceKind.ENDPOINT)
    if fits(needs, endpoint):
        assert needs.remote
    assert not fits(ANYTHING, endpoint)
    beside = replace(device, kind=DeviceKind.NVIDIA)
    assert fits(replace(needs, remote=True), beside) == fits(replace(needs, remote=False), beside)
    if needs.gpu_count < 2:
        assert bool(fits(replace(needs, remote=True), endpoint)) == bool(fits(needs, beside))


def test_the_reason_of_an_address():
    """N5: says what it lacks and what lets a task run there."""
    misfit = fit(replace(GPU, name="endpoint0", kind=DeviceKind.ENDPOINT), memory_gb=6)
    assert misfit.reason == (
        "needs a process beside the device; endpoint0@office-1 is only an engine's address, for remote=True"
    )


def test_what_is_not_remote_travels_as_before():
    """N5: the header says only what holds no default."""
    assert Requirements.of({"remote": False, "memory_gb": 6}).to_dict() == {"memory_gb": 6.0}
    assert Requirements.of({"remote": True}).to_dict() == {"remote": True}


def test_an_empty_label_is_a_label():
    """P1: `site=` is not the same as no site."""
    assert fit(replace(GPU, labels={"site": ""}), labels={"site": ""})
    assert str(fit(replace(GPU, labels={"site": ""}), labels={"site": "x"}).reason).endswith("has site=")
