"""How well a device suits a task it fits (SPEC P2-P4): publishing wakes the idle device with the best score.

    score = health · (w_fit · fit + w_power · power + w_cost · cheapness
                      + w_type · type + w_model · model + w_load · calm)

each part from 0 to 1:

    health     1 healthy, less for a device that is degraded
    fit        needed / offered memory: large devices stay free for large tasks
    power      the device's power, an RTX 4090 (100) or more counts as 1 (domain/gpus.py)
    cheapness  1 / (1 + cost per hour)
    type       1 where the preferred type is met, or none is preferred
    model      1 where the model is loaded, or none is needed
    calm       1 − load of the node

Critical work and training prefer the most powerful device, normal work is balanced, low work goes where it is cheap and
calm. Sources of the parts: best fit is Johnson's rule for bin packing (1973) and Kubernetes' `MostAllocated`; the
loaded model is its `ImageLocality`; a weighted sum of normalised parts is how its scheduler scores nodes. The weights
are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gpu_mesh.domain.device import Device, type_matches
from gpu_mesh.domain.queues import Band
from gpu_mesh.domain.requirements import Requirements

__all__ = ["WEIGHTS", "Condition", "Mode", "Weights", "mode_of", "node_score"]


class Mode(StrEnum):
    """What placement looks at first."""

    CRITICAL = "critical"
    NORMAL = "normal"
    LOW = "low"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What each part counts; they sum to 1."""

    fit: float
    power: float
    cost: float
    type: float
    model: float
    load: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """How a device is at the moment."""

    #: Load of its node, from 0 to 1.
    load: float = 0.0
    #: 1 for a healthy device.
    health: float = 1.0
    #: The model that is loaded.
    model: str | None = None


WEIGHTS: dict[Mode, Weights] = {
    Mode.CRITICAL: Weights(fit=0.05, power=0.50, cost=0.00, type=0.25, model=0.15, load=0.05),
    Mode.NORMAL: Weights(fit=0.25, power=0.15, cost=0.10, type=0.20, model=0.20, load=0.10),
    Mode.LOW: Weights(fit=0.10, power=0.00, cost=0.35, type=0.10, model=0.10, load=0.35),
}
#: Power that counts as full.
FULL_POWER = 100.0
#: Task types that want the most powerful device, whatever their priority (SPEC P4).
POWER_FIRST = frozenset({"training"})
_MODES = {Band.CRITICAL: Mode.CRITICAL, Band.LOW: Mode.LOW}
_AS_REGISTERED = Condition()


def mode_of(band: Band, task: str = "") -> Mode:
    """The mode of placement of a band, or of a task type that has one of its own."""
    return Mode.CRITICAL if task in POWER_FIRST else _MODES.get(band, Mode.NORMAL)


def node_score(needs: Requirements, device: Device, mode: Mode, condition: Condition = _AS_REGISTERED) -> float:
    """Score from 0 to 1 of a device that fits `needs`."""
    weights = WEIGHTS[mode]
    fit = min(1.0, needs.memory_gb / device.budget_gb) if device.budget_gb else 0.0
    preferred = needs.gpu_type is None or type_matches(needs.gpu_type, device.gpu_type)
    return condition.health * (
        weights.fit * fit
        + weights.power * min(1.0, device.power / FULL_POWER)
        + weights.cost / (1.0 + device.cost_per_hour)
        + weights.type * preferred
        + weights.model * (needs.model in (None, condition.model))
        + weights.load * (1.0 - condition.load)
    )
