"""Stands in for NVML, the driver's library: answers as the `pynvml` module does, and raises its errors.

Used in a test's own process, and as the `pynvml` of real workers (`fake_nvml`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml

GB = 2**30

#: NVML's "not available" as it leaves the library.
NOT_AVAILABLE = 2**64 - 1


@dataclass
class Gpu:
    """One GPU of `NvmlLibrary`. `errors` maps a function's name to the NVML error code it fails with."""

    name: str | bytes = "NVIDIA GeForce RTX 4090"
    uuid: str | bytes = "GPU-0"
    total: int = 24 * GB
    used: int = 2 * GB
    gpu: int = 50
    temperature: int = 61
    compute: list[tuple[int, int | None]] = field(default_factory=list)
    graphics: list[tuple[int, int | None]] = field(default_factory=list)
    ecc: int = 0
    remap_pending: int = 0
    remap_failed: int = 0
    #: Where it slows down, degrees; 0: it does not say.
    limit: int = 93
    #: What slows it down, NVML's bits.
    throttle: int = 0
    #: mW; percent.
    power: int = 120_000
    power_limit: int = 450_000
    fan: int = 30
    #: XID errors that nobody has heard of yet.
    xids: list[int] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)


class NvmlLibrary:
    """Answers as the `pynvml` module does, raises its errors, and refuses to work outside nvmlInit/nvmlShutdown."""

    def __init__(self, *gpus: Gpu, errors: dict[str, int] | None = None, names: dict[int, Any] | None = None) -> None:
        self.gpus = list(gpus)
        self.errors = errors or {}
        self.names = names or {}
        #: How many sessions are open.
        self.sessions = 0
        self.inits = 0
        #: How many event sets are open.
        self.event_sets = 0

    def nvmlInit(self) -> None:
        self._fail("nvmlInit")
        self.sessions += 1
        self.inits += 1

    def nvmlShutdown(self) -> None:
        self.sessions -= 1
        self._fail("nvmlShutdown")

    def nvmlDeviceGetCount(self) -> int:
        self._fail("nvmlDeviceGetCount")
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:
        return self._of(self.gpus[index], "nvmlDeviceGetHandleByIndex")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Gpu:
        assert isinstance(uuid, str)
        for gpu in self.gpus:
            if gpu.uuid in (uuid, uuid.encode()):
                return self._of(gpu, "nvmlDeviceGetHandleByUUID")
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetName(self, gpu: Gpu) -> str | bytes:
        return self._of(gpu, "nvmlDeviceGetName").name

    def nvmlDeviceGetUUID(self, gpu: Gpu) -> str | bytes:
        return self._of(gpu, "nvmlDeviceGetUUID").uuid

    def nvmlDeviceGetMemoryInfo(self, gpu: Gpu) -> SimpleNamespace:
        self._of(gpu, "nvmlDeviceGetMemoryInfo")
        return SimpleNamespace(total=gpu.total, used=gpu.used, free=gpu.total - gpu.used)

    def nvmlDeviceGetUtilizationRates(self, gpu: Gpu) -> SimpleNamespace:
        return SimpleNamespace(gpu=self._of(gpu, "nvmlDeviceGetUtilizationRates").gpu, memory=0)

    def nvmlDeviceGetTemperature(self, gpu: Gpu, sensor: int) -> int:
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return self._of(gpu, "nvmlDeviceGetTemperature").temperature

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: Gpu) -> list[SimpleNamespace]:
        return _listed(self._of(gpu, "nvmlDeviceGetComputeRunningProcesses").compute)

    def nvmlDeviceGetGraphicsRunningProcesses(self, gpu: Gpu) -> list[SimpleNamespace]:
        return _listed(self._of(gpu, "nvmlDeviceGetGraphicsRunningProcesses").graphics)

    def nvmlDeviceGetTotalEccErrors(self, gpu: Gpu, error_type: int, counter: int) -> int:
        assert (error_type, counter) == (pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC)
        return self._of(gpu, "nvmlDeviceGetTotalEccErrors").ecc

    def nvmlDeviceGetRemappedRows(self, gpu: Gpu) -> tuple[int, int, int, int]:
        self._of(gpu, "nvmlDeviceGetRemappedRows")
        return (0, 0, gpu.remap_pending, gpu.remap_failed)

    def nvmlDeviceGetTemperatureThreshold(self, gpu: Gpu, threshold: int) -> int:
        assert threshold == pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
        return self._of(gpu, "nvmlDeviceGetTemperatureThreshold").limit

    def nvmlDeviceGetPowerUsage(self, gpu: Gpu) -> int:
        return self._of(gpu, "nvmlDeviceGetPowerUsage").power

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu: Gpu) -> int:
        return self._of(gpu, "nvmlDeviceGetEnforcedPowerLimit").power_limit

    def nvmlDeviceGetFanSpeed(self, gpu: Gpu) -> int:
        return self._of(gpu, "nvmlDeviceGetFanSpeed").fan

    def nvmlDeviceGetCurrentClocksEventReasons(self, gpu: Gpu) -> int:
        return self._of(gpu, "nvmlDeviceGetCurrentClocksEventReasons").throttle

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu: Gpu) -> int:
        return self._of(gpu, "nvmlDeviceGetCurrentClocksThrottleReasons").throttle

    def nvmlEventSetCreate(self) -> list[Gpu]:
        self._fail("nvmlEventSetCreate")
        self.event_sets += 1
        return []

    def nvmlEventSetFree(self, events: list[Gpu]) -> None:
        self.event_sets -= 1
        self._fail("nvmlEventSetFree")

    def nvmlDeviceRegisterEvents(self, gpu: Gpu, kinds: int, events: list[Gpu]) -> None:
        assert kinds == pynvml.nvmlEventTypeXidCriticalError
        events.append(self._of(gpu, "nvmlDeviceRegisterEvents"))

    def nvmlEventSetWait_v2(self, events: list[Gpu], timeout_ms: int) -> SimpleNamespace:
        assert timeout_ms == 0
        for gpu in events:
            self._of(gpu, "nvmlEventSetWait_v2")
            if gpu.xids:
                return SimpleNamespace(eventData=gpu.xids.pop(0))
        raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)

    def nvmlSystemGetProcessName(self, pid: int) -> str | bytes:
        name = self.names.get(pid)
        if isinstance(name, Exception):
            raise name
        if name is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return name

    def _of(self, gpu: Gpu, function: str) -> Gpu:
        self._fail(function)
        if function in gpu.errors:
            raise pynvml.NVMLError(gpu.errors[function])
        return gpu

    def _fail(self, function: str) -> None:
        if function in self.errors:
            raise pynvml.NVMLError(self.errors[function])
        if function != "nvmlInit" and function != "nvmlShutdown" and self.sessions < 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)


def _listed(processes: list[tuple[int, int | None]]) -> list[SimpleNamespace]:
    return [SimpleNamespace(pid=pid, usedGpuMemory=memory) for pid, memory in processes]
