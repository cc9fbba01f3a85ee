"""Processors and Apple silicon: names, and what of a shared memory jobs may use."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from gpu_mesh.devices.apple import AppleSource
from gpu_mesh.devices.cpu import CpuSource
from gpu_mesh.devices.host import host_call, processor_name, sysctl
from gpu_mesh.domain.device import DeviceKind
from gpu_mesh.errors import DeviceError

from .stand_ins import M3_MAX, ram, refuse


def nothing(_: str) -> None:
    return None


def test_an_m3_max_offers_24_of_36_gb() -> None:
    """N1: the type and the memory as ordered."""
    (device,) = AppleSource("Darwin", M3_MAX.get, ram(36, 30)).devices()
    assert (device.name, device.gpu_type, device.memory_gb) == ("unified0", "M3 Max (CPU)", 24.0)
    assert device.kind is DeviceKind.APPLE
    assert device.is_gpu


@pytest.mark.parametrize(
    ("system", "kernel"),
    [("Linux", M3_MAX), ("Darwin", {"machdep.cpu.brand_string": "Intel(R) Core(TM) i7"}), ("Darwin", {})],
)
def test_no_apple_silicon_elsewhere(system: str, kernel: dict[str, str]) -> None:
    """N1: neither a PC nor an Intel Mac."""
    assert AppleSource(system, kernel.get, ram(36, 30)).devices() == ()


@pytest.mark.parametrize(("available", "used"), [(36, 0), (24, 0), (18, 6), (6, 18), (0, 24)])
def test_memory_is_used_once_the_systems_third_is(available: float, used: float) -> None:
    """N1: free for jobs is what is available, but never more than two thirds of all."""
    source = AppleSource("Darwin", M3_MAX.get, ram(36, available))
    reading = source.read(source.devices()[0])
    assert reading.memory_used_gb == pytest.approx(used)
    assert (reading.utilisation, reading.temperature_c, reading.processes) == (None, None, None)


def test_cpu_devices_share_evenly() -> None:
    """N1: two thirds of 96 GB over two devices, used alike; the load is the machine's."""
    source = CpuSource(2, lambda: "Xeon", ram(96, 32), lambda: 25.0)
    devices = source.devices()
    assert [(d.name, d.gpu_type, d.memory_gb, d.is_gpu) for d in devices] == [
        ("cpu0", "Xeon (CPU)", 32.0, False),
        ("cpu1", "Xeon (CPU)", 32.0, False),
    ]
    for device in devices:
        reading = source.read(device)
        assert (reading.memory_total_gb, reading.utilisation, reading.temperature_c) == (32.0, 0.25, None)
        assert reading.memory_used_gb == pytest.approx(16.0)


def test_load_beyond_the_whole_is_the_whole() -> None:
    """H1: a rounding of the system's never leaves 0 to 1."""
    source = CpuSource(1, lambda: "Xeon", ram(96, 32), lambda: 100.4)
    assert source.read(source.devices()[0]).utilisation == 1.0


@pytest.mark.parametrize("error", [PermissionError(13, "no"), psutil.AccessDenied(1), FileNotFoundError(2, "no /proc")])
def test_a_system_that_refuses_is_a_device_error(error: Exception) -> None:
    """H1: foreign exceptions are mapped at the edge, with a remedy."""

    def fail() -> None:
        raise error

    with pytest.raises(DeviceError, match=r"cannot read the memory .*restart the worker"):
        host_call("the memory", fail)


def test_detection_maps_them_too() -> None:
    """N1: on CPU and Apple alike."""
    with pytest.raises(DeviceError, match="the memory"):
        CpuSource(memory=refuse).devices()
    with pytest.raises(DeviceError, match="the memory"):
        AppleSource("Darwin", M3_MAX.get, refuse).devices()


def test_linux_names_the_processor(tmp_path: Path) -> None:
    """N1: the first core's model name."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Xeon\u00ae: 6248\n\nprocessor\t: 1\nmodel name\t: other\n")
    assert processor_name(nothing, cpuinfo) == "Xeon\u00ae: 6248"


def test_macos_names_the_processor(tmp_path: Path) -> None:
    """N1: without the maker, as in `M3 Max (CPU)`."""
    assert processor_name(M3_MAX.get, tmp_path / "none") == "M3 Max"


def test_a_processor_that_says_nothing_still_has_a_name(tmp_path: Path) -> None:
    """N1: ARM Linux has no model name."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nBogoMIPS\t: 50\n")
    assert processor_name(nothing, cpuinfo)


def test_an_unknown_kernel_name_is_none() -> None:
    """N1: on macOS and where there is no such command."""
    assert sysctl("gpu_mesh.no.such.name") is None
