"""What a report of the statistics says (docs/statistics.md)."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gpu_mesh.domain.moments import UNITS_S
from gpu_mesh.errors import InvalidValue
from gpu_mesh.services.health_views import HealthView

__all__ = [
    "LONGEST_S",
    "DeviceReport",
    "ModelReport",
    "NodeReport",
    "QueueReport",
    "Report",
    "Times",
    "parse_span",
]

#: Longest span that is kept, s: a day.
LONGEST_S = 86_400.0
_SPAN = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(s|min|m|h|d)?")


@dataclass(frozen=True, slots=True)
class Times:
    """Times of runs that came to their own end, s; None without any. Quantiles are those of domain/stats."""

    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True)
class QueueReport:
    """A queue: how many runs ended how, and what they waited and took."""

    queue: str
    outcomes: dict[str, int]
    failure_share: float | None
    waited: Times
    ran: Times


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """A worker, with its device where it has one; `cost` in the currency of the device's price."""

    worker: str
    gpu_type: str | None
    outcomes: dict[str, int]
    failure_share: float | None
    #: What its runs took that ended, and what it served jobs of its siblings, s.
    ran_s: float
    served_s: float
    busy_share: float
    swaps: int
    cost: float | None
    condition: HealthView | None = None


@dataclass(frozen=True, slots=True)
class NodeReport:
    """A node: what its workers did together; `busy_share` is the mean of its devices'."""

    node: str
    online: bool
    outcomes: dict[str, int]
    failure_share: float | None
    busy_share: float | None
    swaps: int
    cost: float | None
    devices: list[DeviceReport]
    condition: HealthView | None = None


@dataclass(frozen=True, slots=True)
class ModelReport:
    """A model on one worker: one side of a comparison (SPEC P4). `cost_per_task` of one that succeeded."""

    model: str
    worker: str
    gpu_type: str | None
    outcomes: dict[str, int]
    failure_share: float | None
    ran: Times
    cost_per_task: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """The mesh in a span of time; times in s since the epoch by Redis's clock. Shares are 0 to 1."""

    since: float
    until: float
    outcomes: dict[str, int]
    failure_share: float | None
    #: Tasks that ended, for each minute.
    per_minute: float
    preemptions: int
    swaps: int
    #: Since the mesh began: model swaps that affinity avoided.
    swaps_saved: int
    busy_share: float | None
    cost: float
    queues: list[QueueReport] = field(default_factory=list)
    nodes: list[NodeReport] = field(default_factory=list)
    models: list[ModelReport] = field(default_factory=list)

    @property
    def span_s(self) -> float:
        """How long the span is."""
        return self.until - self.since

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return {**asdict(self), "span_s": self.span_s}

    def only(self, node: str | None, model: str | None, field: str = "node") -> Report:
        """With this node and model alone. Raises InvalidValue naming `field` where there is no such node."""
        known = [one.node for one in self.nodes]
        if node is not None and node not in known:
            raise InvalidValue(field, node, f"one of {', '.join(known) or 'no node yet'}")
        models = [
            one
            for one in self.models
            if model in (None, one.model) and (node is None or one.worker.rpartition("@")[2] == node)
        ]
        return replace(self, nodes=[one for one in self.nodes if node in (None, one.node)], models=models)


def parse_span(text: str, field: str = "last") -> float:
    """`10min`, `1h`, `24h`, `90s` in s; a number alone is minutes. Raises InvalidValue naming `field`."""
    found = _SPAN.fullmatch(text.strip().lower())
    span_s = float(found[1]) * UNITS_S[found[2] or "min"] if found else 0.0
    if not 0 < span_s <= LONGEST_S:
        raise InvalidValue(field, text, "a span of time up to a day, as 10min, 1h or 24h")
    return span_s
