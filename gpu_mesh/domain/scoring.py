"""How well a device suits a task it fits (SPEC P2, P3): publishing wakes the idle device with the best score.

    score = w_fit · fit + w_power · power + w_cost · cheapness + w_type · type

each part from 0 to 1:

    fit        needed / offered memory: best fit, so that large devices stay free for large tasks
    power      the device's power, an RTX 4090 (100) or more counts as 1 (domain/gpus.py)
    cheapness  1 / (1 + cost per hour)
    type       1 where the preferred type is met, or none is preferred

Critical work prefers the most powerful device, normal work is balanced, low work goes where it is cheap.
"""

from __future__ import annotations

from enum import StrEnum

from gpu_mesh.domain.device import Device, type_matches
from gpu_mesh.domain.queues import Band
from gpu_mesh.domain.requirements import Requirements

__all__ = ["WEIGHTS", "Mode", "mode_of", "node_score"]


class Mode(StrEnum):
    """What placement looks at first."""

    CRITICAL = "critical"
    NORMAL = "normal"
    LOW = "low"


#: Weights of fit, power, cheapness and type; each row sums to 1.
WEIGHTS: dict[Mode, tuple[float, float, float, float]] = {
    Mode.CRITICAL: (0.10, 0.60, 0.00, 0.30),
    Mode.NORMAL: (0.40, 0.20, 0.10, 0.30),
    Mode.LOW: (0.30, 0.00, 0.50, 0.20),
}
#: Power that counts as full.
FULL_POWER = 100.0
_MODES = {Band.CRITICAL: Mode.CRITICAL, Band.LOW: Mode.LOW}


def mode_of(band: Band) -> Mode:
    """The mode of placement of a band."""
    return _MODES.get(band, Mode.NORMAL)


def node_score(needs: Requirements, device: Device, mode: Mode) -> float:
    """Score from 0 to 1 of a device that fits `needs`."""
    w_fit, w_power, w_cost, w_type = WEIGHTS[mode]
    fit = min(1.0, needs.memory_gb / device.budget_gb) if device.budget_gb else 0.0
    power = min(1.0, device.power / FULL_POWER)
    cheapness = 1.0 / (1.0 + device.cost_per_hour)
    preferred = needs.gpu_type is None or type_matches(needs.gpu_type, device.gpu_type)
    return w_fit * fit + w_power * power + w_cost * cheapness + w_type * preferred
