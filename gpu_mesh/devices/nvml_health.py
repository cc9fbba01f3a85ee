"""How an NVIDIA GPU is: what slows it down, how hot it is, its memory's errors and the driver's (SPEC H1).

What a GPU, its driver or a container does not tell is null. Of the driver's errors (XID) those below are the
hardware's, by NVIDIA's catalogue (XID Errors, GPU Deployment and Management Documentation); of the others most are a
program's, such as 13 and 31, which fault it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import pynvml

from gpu_mesh.devices.base import Reading

__all__ = ["SILENT", "THROTTLES", "Xids", "ask", "completed", "with_xids"]

T = TypeVar("T")

#: What this GPU, driver or container does not tell; `InsufficientSize` is a list of processes that grew while read.
SILENT = (
    pynvml.NVMLError_NotSupported,
    pynvml.NVMLError_FunctionNotFound,
    pynvml.NVMLError_NoPermission,
    pynvml.NVMLError_NoData,
    pynvml.NVMLError_ArgumentVersionMismatch,
    pynvml.NVMLError_InsufficientSize,
)
#: What slows a GPU down and should not, by NVML's bits; each with what to do.
THROTTLES: Mapping[str, tuple[int, str]] = {
    "thermal": (
        pynvml.nvmlClocksThrottleReasonHwThermalSlowdown | pynvml.nvmlClocksThrottleReasonSwThermalSlowdown,
        "it is too hot: clean its fans and see to the air in its case",
    ),
    "power brake": (
        pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
        "the power supply asks it to draw less: check the supply and its cables",
    ),
    # The driver sets this bit for the two above as well.
    "hardware": (pynvml.nvmlClocksThrottleReasonHwSlowdown, "it is too hot or draws too much: see `nvidia-smi -q`"),
}
#: Degrees below its limit at which a GPU counts as nearly too hot.
NEAR_C = 5.0
#: XID errors that are the hardware's: the GPU does no work until it was reset, or for good.
FATAL_XIDS: Mapping[int, str] = {
    48: "an uncorrectable error of its memory: reset the GPU",
    61: "its microcontroller halted: reset the GPU",
    62: "its microcontroller halted: reset the GPU",
    64: "a faulty row of its memory could not be remapped: have the card replaced",
    74: "its NVLink failed: check the bridge, then reset the GPU",
    79: "it fell off the bus: power the machine off and on, reseat the card",
    95: "an uncorrectable error that was not contained: reset the GPU",
    119: "its system processor does not answer: reset the GPU, or reboot",
    120: "its system processor failed: reset the GPU, or reboot",
    140: "an unrecovered error of its memory: reset the GPU",
}
#: XID errors after which it works on, but should be reset when there is time.
WARNING_XIDS: Mapping[int, str] = {
    63: "a row of its memory is remapped at the next reset",
    92: "its memory has many errors that were corrected: have it checked",
    94: "an uncorrectable error was contained: reset the GPU when it is idle",
}


def ask(question: Callable[..., T], *args: Any) -> T | None:
    """What NVML answers, None where it does not tell."""
    try:
        return question(*args)
    except SILENT:
        return None


def completed(reading: Reading, nvml: Any, handle: Any) -> Reading:
    """The reading with what the GPU says of its health. Raises NVMLError."""
    limit = ask(nvml.nvmlDeviceGetTemperatureThreshold, handle, pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)
    power = ask(nvml.nvmlDeviceGetPowerUsage, handle)
    power_limit = ask(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    fan = ask(nvml.nvmlDeviceGetFanSpeed, handle)
    throttles = _throttles(nvml, handle)
    errors = ask(
        nvml.nvmlDeviceGetTotalEccErrors,
        handle,
        pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
        pynvml.NVML_VOLATILE_ECC,
    )
    rows = ask(nvml.nvmlDeviceGetRemappedRows, handle)
    reading = replace(
        reading,
        # Some cards say 0 for none.
        temperature_limit_c=float(limit) if limit else None,
        power_w=None if power is None else power / 1000.0,
        power_limit_w=None if power_limit is None else power_limit / 1000.0,
        fan=None if fan is None else fan / 100.0,
        throttles=throttles,
        ecc_errors=errors,
    )
    return replace(reading, faults=_faults(errors, rows), warnings=_warnings(reading, rows))


def _throttles(nvml: Any, handle: Any) -> tuple[str, ...] | None:
    bits = None
    # Drivers before 535, and releases of pynvml before 12.535, know the older name alone.
    for name in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
        if bits is None and hasattr(nvml, name):
            bits = ask(getattr(nvml, name), handle)
    if bits is None:
        return None
    found = [name for name, (mask, _) in THROTTLES.items() if bits & mask]
    return tuple(name for name in found if name != "hardware" or found == ["hardware"])


def _faults(errors: int | None, rows: Sequence[int] | None) -> tuple[str, ...]:
    faults = []
    if errors:
        faults.append(f"{errors} uncorrectable memory errors since the driver was loaded: reset the GPU")
    if rows is not None and rows[3]:
        faults.append("a faulty row of its memory could not be remapped: have the card replaced")
    return tuple(faults)


def _warnings(reading: Reading, rows: Sequence[int] | None) -> tuple[str, ...]:
    found = [f"slowed down ({name}): {THROTTLES[name][1]}" for name in reading.throttles or ()]
    now, limit = reading.temperature_c, reading.temperature_limit_c
    if now is not None and limit is not None and now >= limit - NEAR_C:
        found.append(f"{now:.0f} °C, and from {limit:.0f} °C on it slows down: clean its fans, see to the air")
    if rows is not None and rows[2] and not rows[3]:
        found.append("a row of its memory is remapped at the next reset: reset the GPU when it is idle")
    return tuple(found)


def with_xids(reading: Reading, xids: tuple[int, ...] | None) -> Reading:
    """The reading with what was heard of the driver's errors; each counts once."""
    heard = dict.fromkeys(xids or ())
    return replace(
        reading,
        xids=xids,
        faults=(*reading.faults, *(f"XID {xid}: {FATAL_XIDS[xid]}" for xid in heard if xid in FATAL_XIDS)),
        warnings=(*reading.warnings, *(f"XID {xid}: {WARNING_XIDS[xid]}" for xid in heard if xid in WARNING_XIDS)),
    )


class Xids:
    """The driver's errors (XID) of one GPU, heard while this is open: NVML tells nobody of earlier ones.

    They are remembered for as long as the process lives: a reset, which cures most, needs every process that has the
    GPU open to end, this one too. `heard`: by a process before this one, which was killed.
    """

    def __init__(self, uuid: str | None, nvml: Any = pynvml, *, heard: Sequence[int] = ()) -> None:
        self._uuid = uuid
        self._nvml = nvml
        self._events: Any = None
        #: Whether this GPU, driver or system has no events: WSL, some containers.
        self._silent = False
        self._heard: tuple[int, ...] | None = tuple(heard) or None

    def listen(self) -> None:
        """Begin, where it has not begun. Never raises: a GPU that cannot be listened to is told of by its reading."""
        if self._events is not None or self._silent:
            return
        try:
            self._nvml.nvmlInit()
        except pynvml.NVMLError:
            return
        try:
            handle = self._nvml.nvmlDeviceGetHandleByUUID(self._uuid)
            self._events = self._nvml.nvmlEventSetCreate()
            self._nvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, self._events)
            self._heard = self._heard or ()
        except pynvml.NVMLError as exc:
            self._silent = isinstance(exc, SILENT)
            self._end()

    def _end(self) -> None:
        with suppress(pynvml.NVMLError):
            if self._events is not None:
                self._nvml.nvmlEventSetFree(self._events)
        self._events = None
        with suppress(pynvml.NVMLError):
            self._nvml.nvmlShutdown()

    def heard(self) -> tuple[int, ...] | None:
        """All so far; None where it cannot be heard. Waits for nothing."""
        while self._events is not None:
            try:
                event = self._nvml.nvmlEventSetWait_v2(self._events, 0)
            except pynvml.NVMLError_Timeout:
                break
            except pynvml.NVMLError:
                # The GPU is gone: what was heard stays.
                self._end()
                break
            self._heard = (*(self._heard or ()), int(event.eventData))
        return self._heard
