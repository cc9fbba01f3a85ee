"""Every source of devices keeps the same promises (SPEC N1, N5, P6)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pynvml
import pytest

from gpu_mesh.devices import DeviceSource, Reading, detect
from gpu_mesh.devices.apple import AppleSource
from gpu_mesh.devices.cpu import CpuSource
from gpu_mesh.devices.endpoint import EndpointSource
from gpu_mesh.devices.fake import FakeSource
from gpu_mesh.devices.nvml import NvmlSource
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.domain.devicespec import EndpointSpec, FakeSpec
from gpu_mesh.errors import DeviceError

from .stand_ins import M3_MAX, Gpu, NvmlLibrary, ram, refuse

MARGIN_GB = 3.0


@dataclass
class Case:
    """A source with at least one device, the setting that finds it, and a way to lose its first device."""

    source: DeviceSource
    spec: str
    kind: DeviceKind
    detect: dict[str, Any]
    lose: Callable[[], DeviceSource] | None


def nvml_case() -> Case:
    library = NvmlLibrary(Gpu(uuid="GPU-0"), Gpu(name="NVIDIA A40", uuid="GPU-1", compute=[(7, 2**30)]))
    source = NvmlSource(library)

    def lose() -> DeviceSource:
        library.gpus[0].errors["nvmlDeviceGetMemoryInfo"] = pynvml.NVML_ERROR_GPU_IS_LOST
        return source

    return Case(source, "nvidia", DeviceKind.NVIDIA, {"nvml": lambda: source}, lose)


def apple_case() -> Case:
    source = AppleSource("Darwin", M3_MAX.get, ram(36, 20))
    return Case(
        source,
        "apple",
        DeviceKind.APPLE,
        {"apple": lambda: source},
        lambda: AppleSource("Darwin", M3_MAX.get, refuse),
    )


def cpu_case() -> Case:
    return Case(CpuSource(2), "cpu:2", DeviceKind.CPU, {}, lambda: CpuSource(2, memory=refuse))


def endpoint_case() -> Case:
    specs = [EndpointSpec("A40", 40, "http://127.0.0.1:1"), EndpointSpec("L4", 24, "http://127.0.0.1:2")]
    text = "endpoint:A40:40:http://127.0.0.1:1, endpoint:L4:24:http://127.0.0.1:2"
    return Case(EndpointSource(specs), text, DeviceKind.ENDPOINT, {}, None)


def fake_case() -> Case:
    source = FakeSource([FakeSpec("RTX 4090", 24), FakeSpec("RTX 2060 Super", 8)])

    def lose() -> DeviceSource:
        source.lose("gpu0")
        return source

    return Case(source, "fake:RTX 4090:24,fake:RTX 2060 Super:8", DeviceKind.FAKE, {}, lose)


CASES = [nvml_case, apple_case, cpu_case, endpoint_case, fake_case]


@pytest.fixture(params=CASES, ids=[case.__name__.removesuffix("_case") for case in CASES])
def case(request: pytest.FixtureRequest) -> Case:
    made: Case = request.param()
    return made


def detected(case: Case) -> tuple[Device, ...]:
    return detect(case.spec, node="office-1", labels={"trust": "owned"}, margin_gb=MARGIN_GB, **case.detect)


def check_reading(reading: Reading) -> None:
    """Every field in its range, or None."""
    total, used = reading.memory_total_gb, reading.memory_used_gb
    assert total is None or total > 0
    assert used is None or 0 <= used <= (total or 0)
    assert reading.memory_free_gb is None or 0 <= reading.memory_free_gb <= (total or 0)
    assert reading.utilisation is None or 0 <= reading.utilisation <= 1
    for degrees in (reading.temperature_c, reading.temperature_limit_c):
        assert degrees is None or -50 < degrees < 200
    for figure in (reading.power_w, reading.power_limit_w, reading.fan, reading.ecc_errors):
        assert figure is None or figure >= 0
    for words in (reading.faults, reading.warnings, reading.throttles or ()):
        assert all(isinstance(word, str) and word for word in words)
    for process in reading.processes or ():
        assert process.pid > 0
        assert process.memory_gb is None or process.memory_gb >= 0
    assert Reading.from_dict(json.loads(json.dumps(reading.to_dict()))) == reading


def test_kind_is_that_of_its_devices(case: Case) -> None:
    """N1: a source finds devices of its kind, and some are here."""
    kinds = {device.kind for device in case.source.devices()}
    assert kinds == {case.kind} == {case.source.kind}


def test_names_are_unique_and_stable(case: Case) -> None:
    """N1: a name means the same device after a restart."""
    first, second = case.source.devices(), case.source.devices()
    assert first == second
    assert len({device.name for device in first}) == len(first)


def test_what_is_found_is_what_is_detected(case: Case) -> None:
    """N1: detection keeps names, types and memory, and adds what the operator says and what is known of the type."""
    found, devices = case.source.devices(), detected(case)
    for raw, device in zip(found, devices, strict=True):
        assert (device.name, device.gpu_type, device.memory_gb) == (raw.name, raw.gpu_type, raw.memory_gb)
        assert (device.node, device.labels) == ("office-1", {"trust": "owned"})
        assert device.worker == f"{raw.name}@office-1"
        assert device.power > 0
        assert device.cost_per_hour > 0


def test_memory_is_positive_and_the_budget_within_it(case: Case) -> None:
    """P6: a margin is kept free, except on a CPU."""
    for device in detected(case):
        assert device.memory_gb > 0
        margin = 0.0 if case.kind is DeviceKind.CPU else MARGIN_GB
        assert device.budget_gb == pytest.approx(device.memory_gb - margin)


def test_devices_survive_json(case: Case) -> None:
    """N1: what a node registers is what the mesh reads."""
    for device in detected(case):
        assert Device.from_dict(json.loads(json.dumps(device.to_dict()))) == device


def test_readings_are_in_range_or_null(case: Case) -> None:
    """N1: what the hardware does not say is null, not an error."""
    for device in detected(case):
        check_reading(case.source.read(device))


def test_a_reading_knows_the_memory_detected(case: Case) -> None:
    """P6: detection and readings mean the same memory."""
    for device in detected(case):
        assert case.source.read(device).memory_total_gb == pytest.approx(device.memory_gb, abs=0.01)


def test_a_lost_device_says_what_to_do(case: Case) -> None:
    """H1: a device that cannot be read is an error with a remedy; a mere address cannot be lost here."""
    device = detected(case)[0]
    if case.lose is None:
        assert case.source.read(device).faults == ()
        return
    source = case.lose()
    with pytest.raises(DeviceError, match=r"(?s).+[:;] .+") as caught:
        source.read(device)
    again = DeviceError(*caught.value.args)
    assert (str(again), again.hard) == (str(caught.value), caught.value.hard)


@pytest.mark.gpu
def test_the_real_gpu_keeps_the_promises_too() -> None:
    """N1: on real NVIDIA hardware, through the real library."""
    source = NvmlSource()
    found = source.devices()
    if not found:
        pytest.skip("no NVIDIA GPU on this machine")
    assert found == source.devices()
    devices = detect("nvidia", node="office-1")
    assert len({device.uuid for device in devices}) == len(devices)
    for device in devices:
        assert device.memory_gb > 0
        reading = source.read(device)
        check_reading(reading)
        assert reading.memory_total_gb == pytest.approx(device.memory_gb, abs=0.01)
