"""Queues: how full they are, why one is closed, pausing and resuming them (DESIGN §7)."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from gpu_mesh.api.access import Admin, Reader, by
from gpu_mesh.api.backend import Backend, Served
from gpu_mesh.api.examples import QUEUE, TODAY, answer
from gpu_mesh.api.names import QueueName
from gpu_mesh.api.problems import NotFound, responses
from gpu_mesh.services import gates, windows
from gpu_mesh.services.gates import WHOLE_MESH, Changed
from gpu_mesh.services.lookup import known_queues
from gpu_mesh.services.snapshot import QueueView, read_from
from gpu_mesh.services.windows import Today
from gpu_mesh.store.client import mapped_errors

__all__ = ["router"]

router = APIRouter(tags=["queues"])

_UNTIL = "`20:00` (in the mesh's time zone), `2026-11-30 09:00`, or a span such as 90m, 2h, 1d."


class Queues(BaseModel):
    """Queues by name, in canonical order."""

    queues: dict[str, QueueView] = Field(description="By name.", examples=[{QUEUE.name: QUEUE}])


class Pause(BaseModel):
    """How a queue is to be paused."""

    model_config = ConfigDict(extra="forbid")

    until: str | None = Field(
        default=None, max_length=64, description=f"Its end: {_UNTIL} Without: until it is resumed.", examples=["2h"]
    )
    why: str = Field(
        default="", max_length=500, description="Shown to whoever asks why it is closed.", examples=["disk full"]
    )
    scope: str = Field(
        default=WHOLE_MESH,
        max_length=200,
        description="Where: mesh, a node, or a worker such as gpu0@office.",
        examples=[WHOLE_MESH],
    )


class Resume(BaseModel):
    """How a queue is to be resumed."""

    model_config = ConfigDict(extra="forbid")

    until: str | None = Field(
        default=None,
        max_length=64,
        description=f"Also open ai-batch in its peak hours until then: {_UNTIL}",
        examples=["20:00"],
    )
    scope: str = Field(default=WHOLE_MESH, max_length=200, description="Where it is paused.", examples=[WHOLE_MESH])


class PauseState(BaseModel):
    """What a pause or a resume met, and how the queue is now."""

    queue: str = Field(examples=["ai-batch"])
    scope: str = Field(examples=[WHOLE_MESH])
    was_paused: bool = Field(description="Whether it was paused there before.")
    until: float | None = Field(description="The end, s since the epoch; null: none.")
    closed: str | None = Field(
        description="All that keeps the queue closed now, in words; null: open.",
        examples=["paused by ann since 14:02 (disk full)"],
    )
    gates: list[dict[str, Any]] = Field(description="The same, gate by gate.", examples=[QUEUE.gates])


@router.get("/queues", responses=responses(422, 503))
def queues(
    caller: Reader,
    served: Served,
    closed: Annotated[bool | None, Query(description="Only those that are closed somewhere, or that are open.")] = None,
) -> Queues:
    """Every queue: what waits and runs, and why it is closed."""
    found = [queue for queue in _read(served) if closed in (None, queue.closed is not None)]
    return Queues(queues={queue.name: queue for queue in found})


@router.get("/queues/{queue}", responses=answer(QUEUE) | responses(404, 422, 503))
def queue(caller: Reader, served: Served, queue: QueueName) -> QueueView:
    """One queue."""
    _check(served, queue)
    return next(one for one in _read(served) if one.name == queue)


@router.post("/queues/{queue}/pause", responses=responses(404, 422, 503))
def pause(caller: Admin, served: Served, queue: QueueName, how: Pause | None = None) -> PauseState:
    """Hand out nothing of a queue until it is resumed, or `until`. What runs goes on. It is kept in Redis, over
    restarts; pausing again replaces end and words."""
    how = how or Pause()
    _check(served, queue)
    return _state(
        gates.pause(served.settings, queue, scope=how.scope, until=how.until, why=how.why, by=by(caller)),
    )


@router.post("/queues/{queue}/resume", responses=responses(404, 422, 503))
def resume(caller: Admin, served: Served, queue: QueueName, how: Resume | None = None) -> PauseState:
    """End a pause; with `until` peak hours do not close the queue before then either."""
    how = how or Resume()
    _check(served, queue)
    return _state(gates.resume(served.settings, queue, scope=how.scope, until=how.until, by=by(caller)))


@router.get("/windows", responses=answer(TODAY) | responses(503))
def today(caller: Reader, served: Served) -> Today:
    """Today's peak hours, in which ai-batch is paused, and the next change (SPEC R2)."""
    return windows.today(served.settings)


def _read(served: Backend) -> list[QueueView]:
    with mapped_errors(served.settings):
        return read_from(served.client, served.settings).queues


def _check(served: Backend, queue: str) -> None:
    known = known_queues(served.settings)
    if queue not in known:
        raise NotFound("queue", queue, f"one of {', '.join(known)}")


def _state(done: Changed) -> PauseState:
    return PauseState(
        queue=done.queue,
        scope=done.scope,
        was_paused=done.was,
        until=done.until,
        closed=done.closures.said(done.queue),
        gates=done.closures.told(done.queue),
    )
