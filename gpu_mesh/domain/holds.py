"""Which jobs hold batch work back, and where, while they run (SPEC R3): the reference model of lua/_holds.lua.

A realtime job is one of the interactive tier: whoever waits for revenue or customer work waits no less than a user of
ai-realtime. It holds back ai-batch and nothing else: internal work is business work, and has a gate of its own (Q3).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from gpu_mesh.domain.queues import QUEUES, Tier

__all__ = ["HELD_QUEUE", "MESH", "REALTIME_QUEUES", "LiveClaim", "PauseScope", "held_back", "node_of", "scope_of"]

#: The queue that waits while a realtime job runs.
HELD_QUEUE = "ai-batch"
#: The queues of realtime jobs.
REALTIME_QUEUES: frozenset[str] = frozenset(queue.name for queue in QUEUES if queue.tier is Tier.INTERACTIVE)
#: The scope of every device; no node or worker can be called so.
MESH = "*"


class PauseScope(StrEnum):
    """How far a realtime job holds batch work back."""

    GPU = "gpu"
    NODE = "node"
    MESH = "mesh"


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveClaim:
    """A claim that has not ended; `scope` is its worker's setting, `siblings` are the workers that serve it too."""

    worker: str
    queue: str
    scope: PauseScope = PauseScope.NODE
    siblings: tuple[str, ...] = ()


def node_of(worker: str) -> str:
    """The node of `gpu0@node`."""
    return worker.partition("@")[2]


def scope_of(worker: str, scope: PauseScope) -> str:
    """Name of the scope that a realtime job of `worker` holds back: `*`, its node or itself."""
    return {PauseScope.GPU: worker, PauseScope.NODE: node_of(worker), PauseScope.MESH: MESH}[scope]


def held_back(live: Iterable[LiveClaim], worker: str) -> bool:
    """Whether `worker` may not claim from HELD_QUEUE now."""
    own = {MESH, node_of(worker), worker}
    return any(own & _scopes(claim) for claim in live if claim.queue in REALTIME_QUEUES)


def _scopes(claim: LiveClaim) -> set[str]:
    also = claim.siblings if claim.scope is PauseScope.GPU else ()
    return {scope_of(claim.worker, claim.scope), *also}
