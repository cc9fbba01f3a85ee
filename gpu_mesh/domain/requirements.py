"""What a task needs of a device (SPEC P1), and whether a device has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from gpu_mesh.domain.device import Device, DeviceKind, type_matches
from gpu_mesh.errors import InvalidTask

__all__ = ["ANYTHING", "MAX_GPU_COUNT", "MAX_MEMORY_GB", "REQUIREMENT_FIELDS", "Fit", "Requirements", "fits"]

#: Larger claims are a unit mistaken (bytes or MB for GB), GB.
MAX_MEMORY_GB = 100_000.0
#: More GPUs than any one node holds.
MAX_GPU_COUNT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What one task needs. The default needs one device of any kind that counts as a GPU.

    Build it with `of`, which checks every field.
    """

    #: Device memory the task needs, GB.
    memory_gb: float = 0.0
    #: GPUs of one node; 0 says that a CPU will do.
    gpu_count: int = 1
    #: Preferred type, matched loosely: `RTX 4090` is `NVIDIA GeForce RTX 4090`.
    gpu_type: str | None = None
    #: Whether no other type will do.
    require_gpu_type: bool = False
    model: str | None = None
    #: Labels the device must carry, `{"trust": "owned"}`.
    labels: Mapping[str, str] = field(default_factory=dict)
    #: Pinned to this node, or this device (`gpu0`, `gpu0@node`).
    node: str | None = None
    device: str | None = None
    #: Whether it may run where only an engine's address is: all its work on the device goes through the engine.
    remote: bool = False
    #: Free fields the mesh does not read: `epochs`, `batch_size`.
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Requirements:
        """Checked requirements from what a caller gave; a name the mesh does not know is a free field.

        Raises InvalidTask naming the field.
        """
        known: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        for name, value in given.items():
            if not isinstance(name, str):
                raise InvalidTask("requirements", name, "names of requirements are strings")
            check = _CHECKS.get(name)
            if check is None:
                extra[name] = value
            elif value is not None:
                known[name] = check(name, value)
        extra = {**known.pop("extra", {}), **extra}
        needs = cls(**known, extra=extra)
        if needs.require_gpu_type and needs.gpu_type is None:
            raise InvalidTask("require_gpu_type", True, "needs gpu_type as well, for instance gpu_type='RTX 4090'")
        return needs

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data, without what holds its default; `of` reads it back."""
        data: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            value = dict(value) if isinstance(value, Mapping) else value
            if value != getattr(ANYTHING, item.name):
                data[item.name] = value
        return data


#: Needs one device of any kind that counts as a GPU, nothing more.
ANYTHING = Requirements()


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether a device can run a task, and why not. True where it can."""

    reason: str | None = None

    def __bool__(self) -> bool:
        return self.reason is None


_FITS = Fit()


def fits(needs: Requirements, device: Device, *, cpu_counts: bool = False) -> Fit:
    """Whether `device` meets `needs` (SPEC P2); the reason names the first need it does not meet.

    `cpu_counts`: the mesh has no GPU, or the operator lets CPUs stand for them (SPEC N1). A preferred
    `gpu_type` never makes a misfit; how many idle siblings the node has is not looked at here.
    """
    reason = (
        _misfit_pin(needs, device)
        or _misfit_kind(needs, device, cpu_counts)
        or _misfit_memory(needs, device)
        or _misfit_labels(needs, device)
        or _misfit_model(needs, device)
    )
    return Fit(reason) if reason else _FITS


def _misfit_pin(needs: Requirements, device: Device) -> str | None:
    if needs.node is not None and needs.node != device.node:
        return f"pinned to node {needs.node}; this is {device.worker}"
    if needs.device is not None and needs.device not in (device.name, device.worker):
        return f"pinned to device {needs.device}; this is {device.worker}"
    return None


def _misfit_kind(needs: Requirements, device: Device, cpu_counts: bool) -> str | None:
    if needs.gpu_count > 0 and not device.is_gpu and not cpu_counts:
        return f"needs a GPU; {device.worker} is a CPU"
    if needs.gpu_count > 1 and device.kind in (DeviceKind.ENDPOINT, DeviceKind.APPLE, DeviceKind.CPU):
        return f"needs {needs.gpu_count} GPUs of one node; {device.worker} stands alone"
    if device.kind is DeviceKind.ENDPOINT and not needs.remote:
        return f"needs a process beside the device; {device.worker} is only an engine's address, for remote=True"
    if needs.require_gpu_type and needs.gpu_type and not type_matches(needs.gpu_type, device.gpu_type):
        return f"needs a {needs.gpu_type}; {device.worker} is a {device.gpu_type}"
    return None


def _misfit_memory(needs: Requirements, device: Device) -> str | None:
    if needs.memory_gb > device.budget_gb:
        held = f" and {device.held_gb:g} GB that other programs hold" if device.held_gb else ""
        return (
            f"needs {needs.memory_gb:g} GB; {device.worker} offers {device.budget_gb:g} GB "
            f"({device.memory_gb:g} GB less {device.margin_gb:g} GB margin{held})"
        )
    return None


def _misfit_labels(needs: Requirements, device: Device) -> str | None:
    for name, value in needs.labels.items():
        have = device.labels.get(name)
        if have != value:
            shown = "no such label" if have is None else f"{name}={have}"
            return f"needs label {name}={value}; {device.worker} has {shown}"
    return None


def _misfit_model(needs: Requirements, device: Device) -> str | None:
    if device.models and needs.model is not None and needs.model not in device.models:
        return f"needs model {needs.model}; {device.worker} is kept for {', '.join(device.models)}"
    return None


def _memory(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidTask(name, value, "gigabytes as a number, for instance 6 or 4.5")
    if not 0 <= value <= MAX_MEMORY_GB:  # NaN too
        raise InvalidTask(name, value, f"gigabytes from 0 to {MAX_MEMORY_GB:,.0f}")
    return float(value)


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_GPU_COUNT:
        raise InvalidTask(name, value, f"a whole number from 0 (a CPU will do) to {MAX_GPU_COUNT}")
    return value


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidTask(name, value, "text that is not empty")
    return value.strip()


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidTask(name, value, "True or False")
    return value


def _labels(name: str, value: object) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(x, str) for pair in value.items() for x in pair):
        raise InvalidTask(name, value, "a mapping of text to text, for instance {'trust': 'owned'}")
    return dict(value)


def _extra(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InvalidTask(name, value, "a mapping with text as names, for instance {'epochs': 3}")
    return dict(value)


_CHECKS = {
    "memory_gb": _memory,
    "gpu_count": _count,
    "gpu_type": _text,
    "require_gpu_type": _flag,
    "model": _text,
    "labels": _labels,
    "node": _text,
    "device": _text,
    "remote": _flag,
    "extra": _extra,
}
#: The requirements the mesh reads, as a caller names them.
REQUIREMENT_FIELDS: frozenset[str] = frozenset(_CHECKS) - {"extra"}
