"""NVIDIA GPUs, through NVML: the driver's library, which needs no CUDA context and takes no GPU memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pynvml

from gpu_mesh.devices import nvml_health
from gpu_mesh.devices.base import Process, Reading, share
from gpu_mesh.devices.nvml_health import ask
from gpu_mesh.domain.device import GB, Device, DeviceKind
from gpu_mesh.errors import DeviceError

__all__ = ["NvmlSource"]

logger = logging.getLogger(__name__)

#: No library or no driver: a machine without an NVIDIA GPU, which is no fault.
ABSENT = (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded)
#: What to do about an error, by NVML's code.
REMEDIES: dict[int, str] = {
    pynvml.NVML_ERROR_GPU_IS_LOST: "it fell off the bus: drain the node, power the machine off and on, reseat the card",
    pynvml.NVML_ERROR_RESET_REQUIRED: "end what uses it and run `nvidia-smi --gpu-reset`, or reboot",
    pynvml.NVML_ERROR_NOT_FOUND: "it is no longer here: check the card and its cabling, then restart the worker",
    pynvml.NVML_ERROR_GPU_NOT_FOUND: "it is no longer here: check the card and its cabling, then restart the worker",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the driver was updated while it ran: reboot",
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "NVML is gone: install the NVIDIA driver again",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the driver is not loaded: run `modprobe nvidia` or reboot",
    pynvml.NVML_ERROR_NO_PERMISSION: "let this user open /dev/nvidia* (in a container: run it with --gpus)",
    pynvml.NVML_ERROR_INSUFFICIENT_POWER: "plug in the card's power cables",
}
#: Errors that are the hardware's: no restart of an engine cures them.
HARD = frozenset(
    {
        pynvml.NVML_ERROR_GPU_IS_LOST,
        pynvml.NVML_ERROR_RESET_REQUIRED,
        pynvml.NVML_ERROR_NOT_FOUND,
        pynvml.NVML_ERROR_GPU_NOT_FOUND,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_INSUFFICIENT_POWER,
    }
)
#: What to do about any other error.
REMEDY = "see what `nvidia-smi` and the kernel log (`dmesg`, lines with Xid) say, and reboot if it persists"


class NvmlSource:
    """The NVIDIA GPUs of this machine, named by NVML's order and known by their UUID.

    Partitioned GPUs (MIG) are seen as the whole they are cut from. A call into a broken driver can hang: whoever must
    not hang calls from a subprocess. `nvml` is the `pynvml` module, or a stand-in with its functions.
    """

    kind = DeviceKind.NVIDIA

    def __init__(self, nvml: Any = pynvml) -> None:
        self._nvml = nvml

    def devices(self) -> tuple[Device, ...]:
        """`gpu0`, `gpu1` and so on. One that cannot be read is left out, and the others keep their names.

        Raises:
            DeviceError: a driver is here but refuses to work.
        """
        try:
            with self._session():
                found = [self._device(index) for index in range(self._nvml.nvmlDeviceGetCount())]
        except ABSENT as error:
            logger.debug("no NVIDIA GPU: %s", error, extra={"action": "detect"})
            return ()
        except pynvml.NVMLError as error:
            raise DeviceError(_explain("the NVIDIA driver", error)) from error
        return tuple(device for device in found if device is not None)

    def read(self, device: Device) -> Reading:
        """Everything the GPU tells, and the faults of its memory.

        Raises:
            DeviceError: it is lost, wants a reset or cannot be read.
        """
        try:
            with self._session():
                return self._reading(self._nvml.nvmlDeviceGetHandleByUUID(device.uuid))
        except pynvml.NVMLError as error:
            what = f"{device.name} ({device.gpu_type}, {device.uuid})"
            raise DeviceError(_explain(what, error), hard=error.value in HARD) from error

    @contextmanager
    def _session(self) -> Iterator[None]:
        """NVML initialised; it counts who uses it, so sessions may overlap."""
        self._nvml.nvmlInit()
        try:
            yield
        finally:
            try:
                self._nvml.nvmlShutdown()
            except pynvml.NVMLError as error:
                logger.debug("NVML did not shut down: %s", error, extra={"action": "detect"})

    def _device(self, index: int) -> Device | None:
        try:
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            return Device(
                name=f"gpu{index}",
                node="",
                kind=self.kind,
                gpu_type=_text(self._nvml.nvmlDeviceGetName(handle)),
                memory_gb=round(self._nvml.nvmlDeviceGetMemoryInfo(handle).total / GB, 2),
                uuid=_text(self._nvml.nvmlDeviceGetUUID(handle)),
            )
        except pynvml.NVMLError as error:
            logger.warning("left out: %s", _explain(f"gpu{index}", error), extra={"action": "detect", "device": index})
            return None

    def _reading(self, handle: Any) -> Reading:
        nvml = self._nvml
        memory = ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        rates = ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        temperature = ask(nvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
        reading = Reading(
            memory_total_gb=None if memory is None else memory.total / GB,
            memory_used_gb=None if memory is None else memory.used / GB,
            utilisation=None if rates is None else share(rates.gpu / 100.0),
            temperature_c=None if temperature is None else float(temperature),
            processes=self._processes(handle),
        )
        return nvml_health.completed(reading, nvml, handle)

    def _processes(self, handle: Any) -> tuple[Process, ...] | None:
        """Those that compute and those that draw (Vulkan engines do), each once."""
        listers = (self._nvml.nvmlDeviceGetComputeRunningProcesses, self._nvml.nvmlDeviceGetGraphicsRunningProcesses)
        lists = [listed for lister in listers if (listed := ask(lister, handle)) is not None]
        if not lists:
            return None
        by_pid = {process.pid: process for listed in lists for process in listed}
        return tuple(
            Process(pid=pid, name=self._process_name(pid), memory_gb=_used(process.usedGpuMemory))
            for pid, process in sorted(by_pid.items())
        )

    def _process_name(self, pid: int) -> str | None:
        try:
            path = _text(self._nvml.nvmlSystemGetProcessName(pid))
        except (pynvml.NVMLError, UnicodeDecodeError):
            # It ended meanwhile, is another user's, or has a name in no known encoding.
            return None
        # Arguments may hold secrets, and readings are shown to everyone.
        return path.partition(" ")[0].rpartition("/")[2] or None


def _used(memory: int | None) -> float | None:
    """GB; None where NVML does not say, which it does by None or by the largest number there is."""
    if memory is None or memory == pynvml.NVML_VALUE_NOT_AVAILABLE_ulonglong.value:
        return None
    return memory / GB


def _text(value: str | bytes) -> str:
    """Older releases of pynvml return bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _explain(what: str, error: Any) -> str:
    return f"{what} cannot be read ({error}): {REMEDIES.get(error.value, REMEDY)}"
