"""What the mesh knows of one device: the facts that placement, the registry and the operator read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

__all__ = ["GB", "Device", "DeviceKind", "type_matches"]

#: Bytes in one GB as the mesh counts them.
GB = 2**30


class DeviceKind(StrEnum):
    """What a device is made of."""

    NVIDIA = "nvidia"
    #: Apple silicon: unified memory, counts as a GPU for requirements (SPEC N1).
    APPLE = "apple"
    #: The processor of a machine without a GPU.
    CPU = "cpu"
    #: An engine's address on another machine, with declared type and memory (SPEC N5).
    ENDPOINT = "endpoint"
    #: A pretended GPU, from a setting: for tests and for trying the mesh out.
    FAKE = "fake"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU, or what stands for one. Memory in GB (2^30 bytes), cost in currency units per hour."""

    #: Unique on its node and stable over restarts: `gpu0`, `cpu0`.
    name: str
    node: str
    kind: DeviceKind
    #: As the hardware names itself: `NVIDIA GeForce RTX 4090`, `M3 Max (CPU)`.
    gpu_type: str
    #: What jobs may use of it at most: all VRAM, two thirds of unified memory (SPEC N1).
    memory_gb: float
    #: Kept free of jobs (SPEC P6).
    margin_gb: float = 0.0
    #: Held now by processes that are none of ours nor the engine's, in steps of half a GB.
    held_gb: float = 0.0
    #: The vendor's identity, by which `CUDA_VISIBLE_DEVICES` selects it; None where there is none.
    uuid: str | None = None
    #: Relative computing power, RTX 4090 = 100.
    power: float = 0.0
    cost_per_hour: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)
    #: Model variants it is kept for; none: it runs any (SPEC P4).
    models: tuple[str, ...] = ()
    #: Address of the engine bound to this device, where one is.
    engine_url: str | None = None

    @property
    def is_gpu(self) -> bool:
        """Whether the device counts as a GPU for requirements."""
        return self.kind is not DeviceKind.CPU

    @property
    def worker(self) -> str:
        """Name of the Celery worker that serves it: `gpu0@office-1`."""
        return f"{self.name}@{self.node}"

    @property
    def budget_gb(self) -> float:
        """What one job may ask for."""
        return max(0.0, self.memory_gb - self.margin_gb - self.held_gb)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data; `from_dict` reads it back."""
        return {**asdict(self), "kind": self.kind.value, "labels": dict(self.labels), "models": list(self.models)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Device:
        """Read `to_dict`'s data. Names of a newer version are ignored."""
        known = {name: data[name] for name in cls.__slots__ if name in data}
        return cls(**{**known, "kind": DeviceKind(data["kind"]), "models": tuple(data.get("models", ()))})


def type_matches(wanted: str, gpu_type: str) -> bool:
    """Whether `gpu_type` is of the wanted kind, loosely (SPEC P1): `RTX 4090` is `NVIDIA GeForce RTX 4090`.

    Case, spaces and punctuation do not count. Each word wanted must occur whole: `A40` is no `A4000`,
    nor an `A100-PCIE-40GB`.
    """
    have = _runs(gpu_type)
    words = [_runs(word) for word in re.findall(r"[^\W_]+", wanted.casefold())]
    return bool(words) and all(_contains(have, word) for word in words)


def _runs(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+|\d+", text.casefold())


def _contains(have: list[str], word: list[str]) -> bool:
    return any(have[i : i + len(word)] == word for i in range(len(have) - len(word) + 1))
