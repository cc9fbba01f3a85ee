"""Pretended GPUs: for tests, and for trying the mesh out on a laptop."""

from __future__ import annotations

from collections.abc import Sequence

from gpu_mesh.devices.base import Reading
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.domain.devicespec import FakeSpec
from gpu_mesh.errors import DeviceError

__all__ = ["FakeSource"]

#: What a pretended GPU reads, in degrees Celsius.
TEMPERATURE_C = 40.0


class FakeSource:
    """Devices as declared, idle until told otherwise by `use`, `lose` and `restore`."""

    kind = DeviceKind.FAKE

    def __init__(self, specs: Sequence[FakeSpec] = ()) -> None:
        self._specs = tuple(specs)
        self._used_gb: dict[str, float] = {}
        self._lost: set[str] = set()

    def devices(self) -> tuple[Device, ...]:
        """`gpu0`, `gpu1` and so on, in the order declared; a lost one is still listed."""
        return tuple(
            Device(name=f"gpu{i}", node="", kind=self.kind, gpu_type=spec.gpu_type, memory_gb=spec.memory_gb)
            for i, spec in enumerate(self._specs)
        )

    def read(self, device: Device) -> Reading:
        """What it was told, always the same."""
        if device.name in self._lost:
            raise DeviceError(
                f"{device.name} ({device.gpu_type}) is lost; a test lost it: call restore({device.name!r})"
            )
        return Reading(
            memory_total_gb=device.memory_gb,
            memory_used_gb=min(device.memory_gb, self._used_gb.get(device.name, 0.0)),
            utilisation=0.0,
            temperature_c=TEMPERATURE_C,
            processes=(),
        )

    def use(self, name: str, memory_gb: float) -> None:
        """From now on the device of that name reads so many GB used."""
        self._used_gb[name] = memory_gb

    def lose(self, name: str) -> None:
        """From now on the device of that name cannot be read."""
        self._lost.add(name)

    def restore(self, name: str) -> None:
        """The device of that name is back."""
        self._lost.discard(name)
