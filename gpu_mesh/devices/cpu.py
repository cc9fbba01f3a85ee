"""The processor of a machine without a GPU."""

from __future__ import annotations

from collections.abc import Callable

import psutil

from gpu_mesh.devices.base import Reading, share
from gpu_mesh.devices.host import MemoryReader, host_call, processor_name, usable_gb, used_gb
from gpu_mesh.domain.device import Device, DeviceKind

__all__ = ["CpuSource", "cpu_percent"]

#: How long one reading watches the processor, in seconds: short, for it is waited for.
WATCH_S = 0.1


def cpu_percent() -> float:
    """How busy all cores together are, 0 to 100. Takes `WATCH_S`, and remembers nothing between calls."""
    return psutil.cpu_percent(interval=WATCH_S)


class CpuSource:
    """This machine's processor as `count` devices, which share two thirds of its memory evenly."""

    kind = DeviceKind.CPU

    def __init__(
        self,
        count: int = 1,
        name: Callable[[], str] = processor_name,
        memory: MemoryReader = psutil.virtual_memory,
        percent: Callable[[], float] = cpu_percent,
    ) -> None:
        self._count = count
        self._name = name
        self._memory = memory
        self._percent = percent

    def devices(self) -> tuple[Device, ...]:
        """`cpu0`, `cpu1` and so on."""
        gpu_type = f"{host_call('the processor', self._name)} (CPU)"
        memory_gb = usable_gb(host_call("the memory", self._memory)) / self._count
        return tuple(
            Device(name=f"cpu{i}", node="", kind=self.kind, gpu_type=gpu_type, memory_gb=round(memory_gb, 2))
            for i in range(self._count)
        )

    def read(self, device: Device) -> Reading:
        """Its share of the memory; the utilisation is the whole machine's."""
        memory = host_call("the memory", self._memory)
        return Reading(
            memory_total_gb=device.memory_gb,
            memory_used_gb=used_gb(memory, device.memory_gb),
            utilisation=share(host_call("the processor's load", self._percent) / 100.0),
        )
