"""Apple silicon: one GPU that shares the machine's memory with the processor."""

from __future__ import annotations

import platform

import psutil

from gpu_mesh.devices.base import Reading
from gpu_mesh.devices.host import MemoryReader, SysctlReader, host_call, sysctl, usable_gb, used_gb
from gpu_mesh.domain.device import Device, DeviceKind

__all__ = ["AppleSource"]


class AppleSource:
    """The GPU of this Mac, where it is one with Apple silicon.

    Its type is reported as `M3 Max (CPU)` and two thirds of the memory are usable (SPEC N1). macOS tells an ordinary
    user neither the GPU's utilisation nor its temperature nor its processes.
    """

    kind = DeviceKind.APPLE

    def __init__(
        self,
        system: str = platform.system(),
        sysctl: SysctlReader = sysctl,
        memory: MemoryReader = psutil.virtual_memory,
    ) -> None:
        self._system = system
        self._sysctl = sysctl
        self._memory = memory

    def devices(self) -> tuple[Device, ...]:
        """`unified0`, or nothing on any other machine."""
        # Asked of the kernel because a Python under Rosetta believes that it runs on x86_64.
        if self._system != "Darwin" or self._sysctl("hw.optional.arm64") != "1":
            return ()
        chip = (self._sysctl("machdep.cpu.brand_string") or "Apple silicon").removeprefix("Apple ")
        memory = host_call("the memory", self._memory)
        return (
            Device(
                name="unified0",
                node="",
                kind=self.kind,
                gpu_type=f"{chip} (CPU)",
                memory_gb=round(usable_gb(memory), 2),
            ),
        )

    def read(self, device: Device) -> Reading:
        """Memory only."""
        memory = host_call("the memory", self._memory)
        return Reading(memory_total_gb=device.memory_gb, memory_used_gb=used_gb(memory, device.memory_gb))
