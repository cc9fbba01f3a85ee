"""Stand-ins for hardware: an NVML library, a Mac's kernel and a machine's memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nvml_library import NOT_AVAILABLE, Gpu, NvmlLibrary

from gpu_mesh.domain.device import GB

__all__ = ["M3_MAX", "NOT_AVAILABLE", "Gpu", "NvmlLibrary", "Ram", "ram", "refuse"]


@dataclass
class Ram:
    """A machine's memory in bytes, as psutil tells it."""

    total: int
    available: int


def ram(total_gb: float, available_gb: float) -> Callable[[], Ram]:
    """A reader of so much memory."""
    return lambda: Ram(int(total_gb * GB), int(available_gb * GB))


def refuse(*_: object) -> Any:
    """A reader that the operating system turns away."""
    raise PermissionError(13, "Permission denied")


#: What the kernel of an M3 Max answers.
M3_MAX = {"hw.optional.arm64": "1", "machdep.cpu.brand_string": "Apple M3 Max"}
