"""From the setting to the node's devices."""

from __future__ import annotations

import logging
from typing import Any

import pynvml
import pytest

from gpu_mesh.devices import detect, read, source_for
from gpu_mesh.devices.apple import AppleSource
from gpu_mesh.devices.cpu import CpuSource
from gpu_mesh.devices.fake import FakeSource
from gpu_mesh.devices.nvml import NvmlSource
from gpu_mesh.domain.device import DeviceKind
from gpu_mesh.domain.devicespec import FakeSpec
from gpu_mesh.errors import DeviceError, InvalidSetting

from .stand_ins import M3_MAX, Gpu, NvmlLibrary, ram

MISMATCH = {"nvmlInit": pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH}


def machine(*gpus: Gpu, mac: bool = False, errors: dict[str, int] | None = None) -> dict[str, Any]:
    """Sources of a pretended machine, for `detect`."""
    return {
        "nvml": lambda: NvmlSource(NvmlLibrary(*gpus, errors=errors)),
        "apple": lambda: AppleSource("Darwin" if mac else "Linux", M3_MAX.get, ram(36, 30)),
        "cpu": lambda count: CpuSource(count, lambda: "Xeon", ram(96, 90)),
    }


def names(spec: str, **options: Any) -> list[str]:
    return [device.name for device in detect(spec, node="n", **options)]


def test_auto_takes_nvidia_then_apple_then_one_cpu() -> None:
    """N1: zero configuration."""
    assert names("auto", **machine(Gpu(uuid="a"), Gpu(uuid="b"), mac=True)) == ["gpu0", "gpu1"]
    assert names("auto", **machine(mac=True)) == ["unified0"]
    assert names("auto", **machine()) == ["cpu0"]


def test_auto_goes_on_without_a_broken_driver(caplog: pytest.LogCaptureFixture) -> None:
    """N1: the node still serves, and its operator reads what to do."""
    with caplog.at_level(logging.ERROR):
        assert names("auto", **machine(Gpu(), errors=MISMATCH)) == ["cpu0"]
    assert "reboot" in caplog.text


def test_a_broken_driver_asked_for_by_name_is_an_error() -> None:
    """N1: nobody who wrote nvidia wants a CPU."""
    with pytest.raises(DeviceError, match="reboot"):
        detect("nvidia", node="n", **machine(Gpu(), errors=MISMATCH))


@pytest.mark.parametrize(("spec", "hint"), [("nvidia", "nvidia-smi"), ("cpu,apple", "Apple silicon")])
def test_hardware_asked_for_and_not_found_is_a_wrong_setting(spec: str, hint: str) -> None:
    """N1: the message names the setting and what to do."""
    with pytest.raises(InvalidSetting, match=hint) as caught:
        detect(spec, node="n", **machine())
    assert (caught.value.field, caught.value.value) == ("GPU_MESH_DEVICES", spec)


@pytest.mark.parametrize(
    ("visible", "seen"),
    [
        ("1", ["gpu1"]),
        ("2, 0", ["gpu0", "gpu2"]),
        ("GPU-b", ["gpu1"]),
        ("GPU-c1,GPU-a", ["gpu0", "gpu2"]),
        ("0,9,1", ["gpu0"]),
        ("GPU-", ["cpu0"]),
        ("-1", ["cpu0"]),
        ("", ["cpu0"]),
    ],
)
def test_gpus_hidden_from_this_process_are_left_alone(visible: str, seen: list[str]) -> None:
    """N1: `CUDA_VISIBLE_DEVICES` as CUDA reads it; names stay those of the whole machine."""
    three = machine(Gpu(uuid="GPU-a1"), Gpu(uuid="GPU-b1"), Gpu(uuid="GPU-c1"))
    assert names("auto", environ={"CUDA_VISIBLE_DEVICES": visible}, **three) == seen
    assert names("auto", environ={}, **three) == ["gpu0", "gpu1", "gpu2"]


def test_a_hidden_gpu_asked_for_by_name_is_a_wrong_setting() -> None:
    """N1: the message names what hides it."""
    with pytest.raises(InvalidSetting, match="CUDA_VISIBLE_DEVICES"):
        detect("nvidia", node="n", environ={"CUDA_VISIBLE_DEVICES": ""}, **machine(Gpu()))


def test_without_gpu_auto_is_a_cpu() -> None:
    """N2: GPU_ENABLED=false."""
    (device,) = detect("auto", node="n", gpu_enabled=False, **machine(Gpu(), mac=True))
    assert (device.kind, device.is_gpu) == (DeviceKind.CPU, False)


def test_without_gpu_addresses_and_pretences_stay() -> None:
    """N2, N5: the switch is about this machine's own GPU."""
    spec = "endpoint:A40:40:http://127.0.0.1:1,fake:L4:24,cpu"
    assert names(spec, gpu_enabled=False, **machine()) == ["endpoint0", "gpu0", "cpu0"]


@pytest.mark.parametrize("spec", ["nvidia", "cpu,apple"])
def test_without_gpu_naming_one_is_a_contradiction(spec: str) -> None:
    """N2: one of the two settings is wrong, and we cannot know which."""
    with pytest.raises(InvalidSetting, match="GPU_ENABLED"):
        detect(spec, node="n", gpu_enabled=False, **machine(Gpu(), mac=True))


def test_names_stay_unique_when_kinds_are_mixed() -> None:
    """N1: workers are called by these names."""
    spec = "fake:L4:24,nvidia,fake:A40:40,endpoint:A:1:http://a,endpoint:B:2:http://b,cpu:2"
    assert names(spec, **machine(Gpu(uuid="a"), Gpu(uuid="b"))) == [
        "gpu0",
        "gpu1",
        "gpu2",
        "gpu3",
        "endpoint0",
        "endpoint1",
        "cpu0",
        "cpu1",
    ]


def test_mixing_keeps_the_names_of_real_gpus_named_first() -> None:
    """N1: gpu2 stays gpu2 while gpu1 is broken, and what follows comes after it."""
    broken = Gpu(uuid="b", errors={"nvmlDeviceGetName": pynvml.NVML_ERROR_GPU_IS_LOST})
    assert names("nvidia,fake:L4:24", **machine(Gpu(uuid="a"), broken, Gpu(uuid="c"))) == ["gpu0", "gpu2", "gpu3"]


def test_an_endpoint_carries_its_address() -> None:
    """N5: declared type, memory and address; power and cost from the table."""
    (device,) = detect("endpoint:A40:40:http://127.0.0.1:11435/", node="n")
    assert (device.gpu_type, device.memory_gb, device.engine_url) == ("A40", 40.0, "http://127.0.0.1:11435")
    assert device.is_gpu
    assert device.power > 1


@pytest.mark.parametrize(("margin", "budget"), [(0.0, 8.0), (3.0, 5.0), (8.0, 0.0), (30.0, 0.0)])
def test_a_margin_is_never_more_than_the_device_has(margin: float, budget: float) -> None:
    """P6: one setting for a fleet of large and small cards."""
    (device,) = detect("fake:RTX 2060 Super:8", node="n", margin_gb=margin)
    assert device.budget_gb == budget
    assert device.margin_gb == min(margin, 8.0)


def test_a_cpu_has_no_margin_and_a_processors_power() -> None:
    """P6, N1: a third of its memory is left to the system already; no name makes it a GPU."""
    cpu = {"cpu": lambda count: CpuSource(count, lambda: "M3 Max", ram(36, 30))}
    (device,) = detect("cpu", node="n", margin_gb=3.0, **cpu)
    assert (device.gpu_type, device.margin_gb, device.budget_gb, device.power) == ("M3 Max (CPU)", 0.0, 24.0, 1.0)


def test_powers_and_costs_of_the_operator_win() -> None:
    """P2, P4: by type, on every kind."""
    options: dict[str, Any] = {"powers": {"4090": 7.0, "Xeon": 2.0}, "costs": {"RTX 4090": 0.0, "Xeon": 0.9}}
    spec = "nvidia,fake:RTX 4090:24,cpu"
    devices = detect(spec, node="n", **options, **machine(Gpu()))
    assert [(d.power, d.cost_per_hour) for d in devices] == [(7.0, 0.0), (7.0, 0.0), (2.0, 0.9)]


def test_a_wrong_setting_is_refused() -> None:
    """N1: before any hardware is looked at."""

    def touched() -> Any:
        raise AssertionError

    with pytest.raises(InvalidSetting, match="GPU_MESH_DEVICES"):
        detect("nvidia,gpu", node="n", nvml=touched)


@pytest.mark.parametrize("spec", ["cpu", "fake:L4:24", "endpoint:L4:24:http://127.0.0.1:1"])
def test_read_finds_the_source_of_a_device(spec: str) -> None:
    """H1: any process of the machine may read, with nothing but the device."""
    (device,) = detect(spec, node="n")
    assert source_for(device).kind is device.kind
    assert read(device).memory_total_gb == device.memory_gb


@pytest.mark.parametrize("kind", list(DeviceKind))
def test_every_kind_has_a_source(kind: DeviceKind) -> None:
    """N1: no kind is forgotten."""
    (device,) = detect("fake:L4:24", node="n")
    assert source_for(type(device).from_dict({**device.to_dict(), "kind": kind.value})).kind is kind


def test_a_fake_does_as_it_is_told() -> None:
    """H1: for tests of what reads devices."""
    source = FakeSource([FakeSpec("L4", 24), FakeSpec("L4", 24)])
    one, other = source.devices()
    source.use("gpu0", 20.0)
    source.lose("gpu1")
    assert source.read(one).memory_free_gb == 4.0
    assert source.devices() == (one, other)
    with pytest.raises(DeviceError, match="gpu1"):
        source.read(other)
    source.restore("gpu1")
    source.use("gpu1", 99.0)
    assert source.read(other).memory_free_gb == 0.0


def test_a_device_may_be_kept_for_models() -> None:
    """P4: variants of a model on different GPUs, to compare them."""
    found = detect("fake:RTX 4090:24,fake:A40:40", node="n", models={"gpu1": ["gemma4:e4b", "gemma4:12b"]})
    assert [device.models for device in found] == [(), ("gemma4:e4b", "gemma4:12b")]
    with pytest.raises(InvalidSetting, match=r"gpu7.*gpu0, gpu1"):
        detect("fake:RTX 4090:24,fake:A40:40", node="n", models={"gpu7": ["gemma4:e4b"]})
