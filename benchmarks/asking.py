"""Claims as a worker's claimer makes them, for benchmarks that run no worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gpu_mesh.domain.claim import Rules
from gpu_mesh.domain.holds import PauseScope
from gpu_mesh.domain.queues import GPU_QUEUES
from gpu_mesh.store import claims

__all__ = ["Asker"]


@dataclass(slots=True)
class Asker:
    """What one worker, which holds nothing when it asks, asks for next."""

    worker: str
    #: Numbers of the needs it has judged, and the model of each that fits.
    fits: set[str] = field(default_factory=set)
    misfits: set[str] = field(default_factory=set)
    models: dict[str, str | None] = field(default_factory=dict)
    loaded: str | None = None
    rules: Rules = field(default_factory=Rules)
    pause_scope: PauseScope = PauseScope.NODE
    #: Whether Redis may have it as idle, and what the next claim looks for.
    idle: bool = True
    look: str | None = None

    def command(self) -> list[str]:
        """The Redis command."""
        claimant = claims.Claimant(
            worker=self.worker,
            node=self.worker.partition("@")[2],
            queues=GPU_QUEUES,
            held=frozenset(),
            fits=frozenset(self.fits),
            misfits=frozenset(self.misfits),
            loaded=frozenset(n for n in self.fits if self.loaded and self.models.get(n) == self.loaded),
            modelless=frozenset(n for n in self.fits if self.models.get(n) is None),
            idle=self.idle,
            look=self.look or "",
            pause_scope=self.pause_scope,
        )
        claim, look = claims.shas()
        return [
            "EVALSHA",
            claim if self.look is None else look,
            "0",
            *claims.claim_arguments(claimant, self.rules),
        ]

    def read(self, reply: Any) -> claims.ClaimReply:
        """What the answer means."""
        answer = claims.read_reply(reply)
        self.look = answer.what if isinstance(answer, claims.Look) else None
        if isinstance(answer, claims.Claimed):
            self.idle = False
        elif isinstance(answer, claims.Idle | claims.Refused):
            self.idle = True
            self.look = ""  # after a pause strangers' messages are looked for in the same call
        return answer
