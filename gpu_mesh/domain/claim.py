"""Which message a device claims next: the reference model of store/lua/claim.lua (DESIGN §5).

    score = weight + band bonus + aging, never above the class's ceiling
    aging = min(1, waited / horizon) × (ceiling − weight)

Two tiers: what is interactive climbs to just under revenue, what is background to just under ai-realtime. So
background never passes waiting interactive work, nothing passes revenue, and within a tier nothing starves: after
the horizon a message has its ceiling, and among equals the oldest goes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

from gpu_mesh.domain.queues import QUEUES, Band, Tier

__all__ = [
    "BAND_BONUS",
    "CEILING_GAP",
    "Claimant",
    "Group",
    "Rules",
    "ceiling",
    "choose",
    "score",
    "start",
    "waited",
    "weight",
]

#: What a band adds to the weight of its class; less than the distance between two classes of one tier.
BAND_BONUS: Mapping[Band, float] = {Band.LOW: 0.0, Band.NORMAL: 0.01, Band.HIGH: 0.02, Band.CRITICAL: 0.04}
#: How far below the class that must not be passed a ceiling lies.
CEILING_GAP = 0.001
#: Weight of a CPU queue: among those of a worker, band and age decide (SPEC Q6).
CPU_WEIGHT = 0.0
_WEIGHTS = {queue.name: queue.weight for queue in QUEUES}
_TIERS = {queue.name: queue.tier for queue in QUEUES}
#: The classes a tier must not reach.
_ABOVE = {Tier.INTERACTIVE: "revenue", Tier.BACKGROUND: "ai-realtime"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What an operator may set. Times in s."""

    #: Waiting after which a message has its class's ceiling.
    horizon_s: float = 1800.0
    #: How long the oldest of a class may wait while jobs of the loaded model go first.
    affinity_s: float = 60.0
    #: How long a node's idle devices are kept for a job that needs several; as long again it must then do without.
    gather_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Waiting messages of one queue and list with the same needs; only the oldest of them can be next.

    `at` is when that one was sent and `gated` how long its queue had been gated by then, both by Redis's clock, s.
    `uid` grows with every message that comes in.
    """

    queue: str
    band: Band
    needs: str
    model: str | None
    at: float
    uid: str
    gated: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimant:
    """The device that asks: the needs it fits, the model it has loaded, the queues it consumes."""

    fits: Set[str]
    loaded: str | None = None
    queues: tuple[str, ...] = field(default=tuple(_WEIGHTS))


def weight(queue: str) -> float:
    """The weight of a queue, a CPU queue's included."""
    return _WEIGHTS.get(queue, CPU_WEIGHT)


def ceiling(queue: str) -> float:
    """The highest score of a queue: just under what it must not pass; for revenue its own most urgent band."""
    if queue == "revenue" or queue not in _WEIGHTS:
        return weight(queue) + BAND_BONUS[Band.CRITICAL]
    return _WEIGHTS[_ABOVE[_TIERS[queue]]] - CEILING_GAP


def start(queue: str, band: Band) -> float:
    """Score of a message that just came in."""
    return weight(queue) + BAND_BONUS[band]


def score(queue: str, band: Band, waited_s: float, rules: Rules) -> float:
    """Score of a message that waited `waited_s`; time behind a gate does not count as waiting."""
    top = ceiling(queue)
    return min(top, start(queue, band) + min(1.0, waited_s / rules.horizon_s) * (top - weight(queue)))


def waited(group: Group, now: float, gated: Mapping[str, float]) -> float:
    """How long its oldest message waited at an open gate, s; `gated` is each queue's total behind gates."""
    return max(0.0, now - group.at - (gated.get(group.queue, 0.0) - group.gated))


def choose(
    groups: Iterable[Group],
    claimant: Claimant,
    *,
    now: float,
    rules: Rules,
    closed: Set[str] = frozenset(),
    gated: Mapping[str, float] | None = None,
) -> Group | None:
    """The group whose oldest message the device claims, or None when nothing open fits.

    The best score wins, among equals the oldest. If the device has a model loaded that the winner does not need, the
    oldest of the same queue and band that needs the loaded one goes first, as long as the winner has not waited
    `rules.affinity_s` (SPEC P7).
    """
    totals = gated or {}
    open_to_us = [
        group
        for group in groups
        if group.queue in claimant.queues and group.queue not in closed and group.needs in claimant.fits
    ]
    if not open_to_us:
        return None

    def rank(group: Group) -> tuple[float, float, str]:
        return (-score(group.queue, group.band, waited(group, now, totals), rules), group.at, group.uid)

    best = min(open_to_us, key=rank)
    if claimant.loaded is None or best.model in (None, claimant.loaded):
        return best
    if waited(best, now, totals) >= rules.affinity_s:
        return best
    same = [
        group
        for group in open_to_us
        if (group.queue, group.band, group.model) == (best.queue, best.band, claimant.loaded)
    ]
    return min(same, key=lambda group: (group.at, group.uid), default=best)
