"""What the operating system says of this machine: its processor's name and its memory."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

import psutil

from gpu_mesh.domain.device import GB
from gpu_mesh.errors import DeviceError

__all__ = [
    "Memory",
    "MemoryReader",
    "SysctlReader",
    "host_call",
    "processor_name",
    "sysctl",
    "usable_gb",
    "used_gb",
]

#: Share of memory that processors and GPUs hold together and jobs may use (SPEC N1): 24 of 36 GB.
USABLE_SHARE = 2 / 3
#: Longest wait for the `sysctl` command, in seconds.
SYSCTL_TIMEOUT_S = 5.0

T = TypeVar("T")

#: Reads a name of the kernel's; None where there is no such name.
SysctlReader = Callable[[str], str | None]


class Memory(Protocol):
    """This machine's memory, in bytes, as `psutil.virtual_memory` tells it."""

    @property
    def total(self) -> int: ...

    @property
    def available(self) -> int: ...


MemoryReader = Callable[[], Memory]


def sysctl(name: str) -> str | None:
    """What macOS' `sysctl -n NAME` prints; None where the command or the name is unknown."""
    try:
        done = subprocess.run(
            ["sysctl", "-n", name], capture_output=True, text=True, timeout=SYSCTL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def processor_name(read_sysctl: SysctlReader = sysctl, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, without its maker where that is Apple: `M3 Max`, `Intel(R) Xeon(R) Gold 6248`."""
    name = _cpuinfo_name(cpuinfo) or read_sysctl("machdep.cpu.brand_string")
    name = name or platform.processor() or platform.machine() or "processor"
    return name.removeprefix("Apple ").strip()


def _cpuinfo_name(cpuinfo: Path) -> str | None:
    """From Linux; None elsewhere, and on ARM machines, which do not say."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    values = (value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == "model name")
    return next((value for value in values if value), None)


def host_call(what: str, call: Callable[[], T]) -> T:
    """Call the operating system, its failures mapped.

    Raises:
        DeviceError: it refused.
    """
    try:
        return call()
    except (psutil.Error, OSError) as error:
        remedy = "check that this process may read the system's statistics (/proc on Linux), then restart the worker"
        raise DeviceError(f"cannot read {what} of this machine: {error}; {remedy}") from error


def usable_gb(memory: Memory) -> float:
    """What jobs may use of the whole machine's memory."""
    return memory.total * USABLE_SHARE / GB


def used_gb(memory: Memory, memory_gb: float) -> float:
    """How much of a device's `memory_gb`, its share of what is usable, jobs cannot have now.

    The third kept back for the system absorbs the first use, so an idle machine reads 0.
    """
    usable = usable_gb(memory)
    free = min(usable, memory.available / GB)
    return memory_gb * (1.0 - free / usable)
