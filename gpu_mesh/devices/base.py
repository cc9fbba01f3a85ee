"""The one protocol of everything that offers devices, and what a look at a device says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from gpu_mesh.domain.device import Device, DeviceKind

__all__ = ["DeviceSource", "Process", "Reading", "share"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that holds memory of a device."""

    pid: int
    #: The program, without its folder and arguments; None where the driver does not tell.
    name: str | None = None
    memory_gb: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A device at one moment. None where the hardware does not say, which is no fault. Memory in GB (2^30 bytes)."""

    #: What jobs may use at most; `memory_used_gb` is what of it they cannot have now, whoever holds it.
    memory_total_gb: float | None = None
    memory_used_gb: float | None = None
    #: Share of time that it computed lately, 0 to 1.
    utilisation: float | None = None
    temperature_c: float | None = None
    #: Where it begins to slow itself down.
    temperature_limit_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    #: Share of its fans' full speed, 0 to 1; it may be more.
    fan: float | None = None
    #: What slows it down now, as in THROTTLES of `nvml_health`; empty: nothing.
    throttles: tuple[str, ...] | None = None
    #: Uncorrectable errors of its memory since the driver was loaded.
    ecc_errors: int | None = None
    #: XID errors of the driver, oldest first, since its reader began to listen.
    xids: tuple[int, ...] | None = None
    processes: tuple[Process, ...] | None = None
    #: Hardware faults, in words. Any of them makes the device unhealthy at once, and no restart of an engine cures it.
    faults: tuple[str, ...] = ()
    #: What makes it degraded while it lasts, in words.
    warnings: tuple[str, ...] = ()

    @property
    def memory_free_gb(self) -> float | None:
        """What jobs can have now, never below 0; None where unknown."""
        if self.memory_total_gb is None or self.memory_used_gb is None:
            return None
        return max(0.0, self.memory_total_gb - self.memory_used_gb)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data, so that a subprocess can take the reading; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Reading:
        """Read `to_dict`'s data, also after JSON made lists of its tuples. Names of a newer version are ignored."""
        known = {name: data[name] for name in cls.__slots__ if name in data}
        processes = known.pop("processes", None)
        lists = {name: tuple(held) for name, held in known.items() if isinstance(held, list)}
        return cls(
            **{**known, **lists},
            processes=None if processes is None else tuple(Process(**process) for process in processes),
        )


class DeviceSource(Protocol):
    """Finds the devices of one kind and reads them. Keeps nothing open between two calls."""

    @property
    def kind(self) -> DeviceKind:
        """The kind of every device found here."""
        ...

    def devices(self) -> tuple[Device, ...]:
        """Those here now, in a stable order and by stable names; empty where there are none.

        They are raw: `gpu_mesh.devices.detect` fills in node, margin, labels, power and cost.

        Raises:
            DeviceError: they are here but cannot be read.
        """
        ...

    def read(self, device: Device) -> Reading:
        """How one of them is now.

        Raises:
            DeviceError: it is lost or cannot be read; the message says what to do.
        """
        ...


def share(value: float) -> float:
    """A share of a whole, kept within 0 and 1."""
    return min(1.0, max(0.0, value))
