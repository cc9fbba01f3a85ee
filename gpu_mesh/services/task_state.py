"""What is told of one task: where it is, what came of it (SPEC A1)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from celery import states

from gpu_mesh.domain.untyped import mapping, number
from gpu_mesh.services.lookup import DEAD

__all__ = ["TaskState", "progress_of"]

#: States after which nothing changes by itself.
_ENDED = states.READY_STATES | {DEAD}


@dataclass(frozen=True, slots=True)
class TaskState:
    """One task. `state` is one of `lookup` or Celery's; times in s, stamps since the epoch; None: not known, or it does
    not apply.

    `position` counts from 0 in the order in which a device that fits all of its queue would claim them.
    """

    id: str
    state: str = states.PENDING
    name: str | None = None
    queue: str | None = None
    priority: int | None = None
    needs: dict[str, Any] = field(default_factory=dict)
    position: int | None = None
    #: Why it cannot run now, or why it is a dead letter.
    why: str | None = None
    worker: str | None = None
    #: The worker that is to take a critical task over first.
    standby: str | None = None
    #: How often a worker was handed it.
    deliveries: int | None = None
    retries: int | None = None
    preemptions: int | None = None
    sent_at: float | None = None
    due_at: float | None = None
    started_at: float | None = None
    waited_s: float | None = None
    ran_s: float | None = None
    #: Whether it was taken back.
    cancelled: bool = False
    progress: tuple[float, float] | None = None
    result: Any = None
    #: Type and message.
    error: tuple[str, str] | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it is over."""
        return self.state in _ENDED

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return asdict(self)


def progress_of(said: object) -> tuple[float, float] | None:
    """How much is done of how much, as our tasks (`done`) and Celery's own example (`current`) tell it."""
    info = mapping(said)
    done, total = number(info.get("done", info.get("current", 0))), number(info.get("total"))
    return None if done is None or total is None else (done, total)
