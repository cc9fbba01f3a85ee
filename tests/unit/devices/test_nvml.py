"""NVIDIA GPUs through NVML: what it says, what it leaves out, and each way it fails."""

from __future__ import annotations

import logging
from dataclasses import replace

import pynvml
import pytest

from gpu_mesh.devices import Process
from gpu_mesh.devices.nvml import NvmlSource
from gpu_mesh.domain.device import Device
from gpu_mesh.errors import DeviceError

from .stand_ins import NOT_AVAILABLE, Gpu, NvmlLibrary

GIB = 2**30


def first(library: NvmlLibrary) -> Device:
    return NvmlSource(library).devices()[0]


@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_gpu_is_known_by_uuid_name_and_memory(as_bytes: bool) -> None:
    """N1: names come as text from new releases of pynvml and as bytes from old ones."""
    gpu = Gpu(name=b"NVIDIA A40", uuid=b"GPU-ab") if as_bytes else Gpu(name="NVIDIA A40", uuid="GPU-ab")
    device = first(NvmlLibrary(gpu))
    assert (device.name, device.gpu_type, device.uuid, device.memory_gb) == ("gpu0", "NVIDIA A40", "GPU-ab", 24.0)


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_no_library_or_driver_is_no_gpu(code: int) -> None:
    """N1: a machine without an NVIDIA driver is not at fault."""
    assert NvmlSource(NvmlLibrary(Gpu(), errors={"nvmlInit": code})).devices() == ()


def test_a_driver_that_refuses_is_an_error_with_a_remedy() -> None:
    """N1: a driver updated under a running system must not pass for "no GPU"."""
    library = NvmlLibrary(Gpu(), errors={"nvmlInit": pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH})
    with pytest.raises(DeviceError, match="updated while it ran: reboot"):
        NvmlSource(library).devices()


@pytest.mark.parametrize(
    "function",
    ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetName", "nvmlDeviceGetUUID", "nvmlDeviceGetMemoryInfo"],
)
def test_a_broken_gpu_hides_no_other_and_renames_none(function: str, caplog: pytest.LogCaptureFixture) -> None:
    """N1: gpu2 stays gpu2 while gpu1 is off the bus, and the operator reads about it."""
    broken = Gpu(uuid="GPU-1", errors={function: pynvml.NVML_ERROR_GPU_IS_LOST})
    library = NvmlLibrary(Gpu(uuid="GPU-0"), broken, Gpu(uuid="GPU-2"))
    with caplog.at_level(logging.WARNING):
        devices = NvmlSource(library).devices()
    assert [(device.name, device.uuid) for device in devices] == [("gpu0", "GPU-0"), ("gpu2", "GPU-2")]
    assert "gpu1" in caplog.text
    assert "power the machine off and on" in caplog.text


def test_a_reading_says_everything() -> None:
    """H1: memory, utilisation, temperature and who holds the memory; drawing processes count, and each once."""
    gpu = Gpu(
        used=6 * GIB, gpu=37, temperature=71, compute=[(20, 4 * GIB), (10, None)], graphics=[(20, 4 * GIB), (30, 0)]
    )
    library = NvmlLibrary(gpu, names={10: "/opt/bin/ollama serve --key s3cret", 20: b"python3"})
    reading = NvmlSource(library).read(first(library))
    assert (reading.memory_total_gb, reading.memory_used_gb, reading.memory_free_gb) == (24.0, 6.0, 18.0)
    assert (reading.utilisation, reading.temperature_c, reading.faults) == (0.37, 71.0, ())
    assert reading.processes == (
        Process(pid=10, name="ollama", memory_gb=None),
        Process(pid=20, name="python3", memory_gb=4.0),
        Process(pid=30, name=None, memory_gb=0.0),
    )


def test_what_nvml_marks_unavailable_is_null() -> None:
    """H1: neither a huge number nor a name in no known encoding breaks a reading."""
    undecodable = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    library = NvmlLibrary(Gpu(compute=[(1, NOT_AVAILABLE)]), names={1: undecodable})
    assert NvmlSource(library).read(first(library)).processes == (Process(pid=1),)


FIELDS = {
    "nvmlDeviceGetMemoryInfo": "memory_used_gb",
    "nvmlDeviceGetUtilizationRates": "utilisation",
    "nvmlDeviceGetTemperature": "temperature_c",
}


@pytest.mark.parametrize("function", FIELDS)
@pytest.mark.parametrize(
    "code",
    [
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_NO_DATA,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
    ],
)
def test_not_supported_is_null(function: str, code: int) -> None:
    """H1: what the hardware does not say is null, and the rest is still told."""
    library = NvmlLibrary(Gpu())
    device = first(library)
    whole = NvmlSource(library).read(device)
    library.gpus[0].errors[function] = code
    reading = NvmlSource(library).read(device)
    assert getattr(reading, FIELDS[function]) is None
    others = [field for field in FIELDS.values() if field != FIELDS[function]]
    assert [getattr(reading, field) for field in others] == [getattr(whole, field) for field in others]


def test_processes_are_null_only_when_neither_list_is_told() -> None:
    """H1: WSL lists no graphics processes; a container without permission lists none at all."""
    library = NvmlLibrary(Gpu(compute=[(5, GIB)]))
    device, errors = first(library), library.gpus[0].errors
    errors["nvmlDeviceGetGraphicsRunningProcesses"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    assert NvmlSource(library).read(device).processes == (Process(pid=5, memory_gb=1.0),)
    errors["nvmlDeviceGetComputeRunningProcesses"] = pynvml.NVML_ERROR_INSUFFICIENT_SIZE
    assert NvmlSource(library).read(device).processes is None


def test_memory_faults_are_told_and_unsupported_checks_are_none() -> None:
    """H1: uncorrectable errors and failed remaps; consumer cards know neither."""
    unsupported = dict.fromkeys(
        ("nvmlDeviceGetTotalEccErrors", "nvmlDeviceGetRemappedRows"), pynvml.NVML_ERROR_NOT_SUPPORTED
    )
    library = NvmlLibrary(Gpu(ecc=2, remap_failed=1))
    device = first(library)
    told = NvmlSource(library).read(device).faults
    assert len(told) == 2
    assert "2 uncorrectable memory errors" in told[0]
    assert "could not be remapped" in told[1]
    library.gpus[0].errors.update(unsupported)
    assert NvmlSource(library).read(device).faults == ()


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (pynvml.NVML_ERROR_GPU_IS_LOST, "power the machine off and on"),
        (pynvml.NVML_ERROR_RESET_REQUIRED, "--gpu-reset"),
        (pynvml.NVML_ERROR_GPU_NOT_FOUND, "no longer here"),
        (pynvml.NVML_ERROR_INSUFFICIENT_POWER, "power cables"),
        (pynvml.NVML_ERROR_TIMEOUT, "nvidia-smi"),
        (pynvml.NVML_ERROR_UNKNOWN, "nvidia-smi"),
    ],
)
@pytest.mark.parametrize("function", ["nvmlDeviceGetHandleByUUID", *FIELDS, "nvmlDeviceGetRemappedRows"])
def test_a_gpu_that_fails_is_an_error_with_a_remedy(function: str, code: int, remedy: str) -> None:
    """H1: lost, wanting a reset or mute: the message names the GPU and says what to do."""
    library = NvmlLibrary(Gpu(uuid="GPU-ab"))
    device = first(library)
    library.gpus[0].errors[function] = code
    with pytest.raises(DeviceError, match=remedy) as caught:
        NvmlSource(library).read(device)
    assert "gpu0 (NVIDIA GeForce RTX 4090, GPU-ab)" in str(caught.value)


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "install the NVIDIA driver"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "modprobe nvidia"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "reboot"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "--gpus"),
    ],
)
def test_a_driver_that_goes_away_is_an_error_when_reading(code: int, remedy: str) -> None:
    """H1: a machine without a driver has no GPU, but a GPU without its driver is ill."""
    library = NvmlLibrary(Gpu())
    device = first(library)
    library.errors["nvmlInit"] = code
    with pytest.raises(DeviceError, match=remedy):
        NvmlSource(library).read(device)


def test_a_gpu_taken_out_is_an_error() -> None:
    """H1: its UUID is found no more, though another GPU now has its place."""
    library = NvmlLibrary(Gpu(uuid="GPU-new"))
    with pytest.raises(DeviceError, match="no longer here"):
        NvmlSource(library).read(replace(first(library), uuid="GPU-old"))


@pytest.mark.parametrize("function", [None, "nvmlDeviceGetCount", "nvmlDeviceGetMemoryInfo", "nvmlShutdown"])
def test_every_init_is_paired_with_a_shutdown(function: str | None) -> None:
    """NVML counts its users: one left over keeps a driver that should be reset in use."""
    library = NvmlLibrary(Gpu())
    device = first(library)
    if function:
        library.errors[function] = pynvml.NVML_ERROR_UNKNOWN
    for call in (NvmlSource(library).devices, lambda: NvmlSource(library).read(device)):
        before = library.inits
        try:
            call()
        except DeviceError:
            assert function != "nvmlShutdown"
        assert (library.inits, library.sessions) == (before + 1, 0)
