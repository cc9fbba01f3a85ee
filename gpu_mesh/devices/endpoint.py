"""GPUs that are only an engine's address, such as an Ollama behind a tunnel (SPEC N5)."""

from __future__ import annotations

from collections.abc import Sequence

from gpu_mesh.devices.base import Reading
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.domain.devicespec import EndpointSpec

__all__ = ["EndpointSource"]


class EndpointSource:
    """Devices as declared: nobody here can look at their hardware."""

    kind = DeviceKind.ENDPOINT

    def __init__(self, specs: Sequence[EndpointSpec] = ()) -> None:
        self._specs = tuple(specs)

    def devices(self) -> tuple[Device, ...]:
        """`endpoint0`, `endpoint1` and so on, in the order declared."""
        return tuple(
            Device(
                name=f"endpoint{i}",
                node="",
                kind=self.kind,
                gpu_type=spec.gpu_type,
                memory_gb=spec.memory_gb,
                engine_url=spec.url,
            )
            for i, spec in enumerate(self._specs)
        )

    def read(self, device: Device) -> Reading:
        """The declared memory; whether the engine answers is not asked here."""
        return Reading(memory_total_gb=device.memory_gb)
