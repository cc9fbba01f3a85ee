"""What a channel that claims hands on to its worker's claimer: claims, and how they end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from kombu.transport import virtual

from gpu_mesh.store.claims import Claimed

__all__ = ["ClaimQoS", "ClaimSource"]


class ClaimSource(Protocol):
    """What a channel needs of a worker's claimer (services/claimer.py)."""

    worker: str

    @property
    def held(self) -> frozenset[str]: ...
    def load(self) -> None: ...
    def command(self, queues: Sequence[str]) -> list[str]: ...
    def read(self, reply: Any) -> Claimed | None: ...
    def pause(self) -> None: ...
    def delay(self, claimed: Claimed, due: float) -> bool: ...
    def ack(self, tag: str) -> None: ...
    def hand_back(self, tag: str, *, counts: bool, preempted: bool = False) -> None: ...
    def bury(self, tag: str, why: str) -> None: ...


class ClaimQoS(virtual.QoS):
    """Acks and rejects go to the claimer, which outlives this connection; closing gives nothing back."""

    restore_at_shutdown = False

    def __init__(self, channel: Any, prefetch_count: int, claimer: ClaimSource, concurrency: int) -> None:
        super().__init__(channel, prefetch_count)
        self._claimer = claimer
        self._concurrency = concurrency

    def can_consume(self) -> bool:
        """One claim a job the pool can run: a device's worker holds one."""
        return len(self._claimer.held) < self._concurrency

    def ack(self, delivery_tag: str) -> None:
        self._claimer.ack(delivery_tag)
        super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if requeue:
            self.hand_back(delivery_tag, counts=True)
            return
        self._claimer.bury(delivery_tag, "rejected by the worker: see its log")
        super().ack(delivery_tag)

    def hand_back(self, delivery_tag: str, *, counts: bool, preempted: bool = False) -> None:
        """Give a claim back to the front of its queue; `counts`: as a delivery, `preempted`: as a preemption."""
        self._claimer.hand_back(delivery_tag, counts=counts, preempted=preempted)
        super().ack(delivery_tag)

    def restore_unacked(self) -> list[Any]:
        self._delivered.clear()
        return []
