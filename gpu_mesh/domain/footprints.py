"""What a model was seen to take of a device's memory, which replaces what was said it would (SPEC P6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gpu_mesh.domain.device import Device
from gpu_mesh.domain.requirements import Requirements

__all__ = ["Footprint", "Footprints", "as_seen", "merged"]

#: How long the most that was seen of a model counts, s: with a shorter context it takes less.
KEPT_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Footprint:
    """The most that a model took lately, GB, and when that was seen, s since the epoch."""

    gb: float
    seen_at: float


#: By type of device and canonical name of the model.
Footprints = Mapping[tuple[str, str], Footprint]


def merged(before: Footprint | None, gb: float, now: float) -> Footprint:
    """What is known after `gb` was seen: the most of the last KEPT_S."""
    if before is None or gb >= before.gb or not 0 <= now - before.seen_at <= KEPT_S:
        return Footprint(gb, now)
    return before


def as_seen(needs: Requirements, device: Device, seen: Footprints, model: str | None) -> Requirements:
    """Needs with the memory that `model`, the canonical name of theirs, was seen to take on such a device.

    Only of tasks whose work on the device is all the engine's (`remote`): others may need memory of their own.
    """
    found = seen.get((device.gpu_type, model)) if needs.remote and model is not None else None
    return needs if found is None else replace(needs, memory_gb=found.gb)
