"""What is told of tasks."""

from __future__ import annotations

import json
from typing import Any, Self

from pydantic import BaseModel, Field
from pydantic_core import PydanticSerializationError, to_json

from gpu_mesh.services.task_state import TaskState

__all__ = ["Cancellation", "Task", "sound"]

_ID = "3f0c1a52-6a1e-4b0e-9a57-5a1fa0f4b0c1"


class Progress(BaseModel):
    """How far a task is, as it says itself."""

    done: float = Field(examples=[256])
    total: float = Field(examples=[1000])


class Failure(BaseModel):
    """Why a task failed."""

    type: str = Field(description="Class of the exception.", examples=["ModelNotFound"])
    message: str = Field(examples=["ollama at http://127.0.0.1:11434 has no model 'gemma9'"])


class Task(BaseModel):
    """One task. Null: not known (any more), or it does not apply."""

    task_id: str = Field(examples=[_ID])
    state: str = Field(
        description="`WAITING`, `UNSCHEDULABLE` (no device online fits it: see `why`), `DELAYED`, `PREEMPTED` (waits "
        "after it made room), `STARTED`, `PROGRESS`, `RETRY`; ended: `SUCCESS`, `FAILURE`, `REVOKED` (cancelled or "
        "expired), `DEAD` (a dead letter: see `why`).",
        examples=["WAITING"],
    )
    ended: bool = Field(description="Whether it is over.", examples=[False])
    name: str | None = Field(description="The task's type or name.", examples=["llm_inference"])
    queue: str | None = Field(examples=["customer"])
    priority: int | None = Field(description="0 to 10.", examples=[8])
    requirements: dict[str, Any] = Field(
        description="As it was sent, with those of its type; empty where it ended a while ago.",
        examples=[{"memory_gb": 6.0}],
    )
    position: int | None = Field(
        description="How many of its queue a device that fits all of them would take before it.", examples=[2]
    )
    why: str | None = Field(
        description="Why it cannot run now, or why it is a dead letter; null where it is only not its turn.",
        examples=["needs 48 GB; gpu0@desk offers 22 GB (24 GB less 2 GB margin)"],
    )
    worker: str | None = Field(description="Who runs or ran it.", examples=["gpu0@desk"])
    device: str | None = Field(description="The worker's device.", examples=["gpu0"])
    node: str | None = Field(description="The device's node.", examples=["desk"])
    standby: str | None = Field(
        description="The worker that takes a critical task over first.", examples=["gpu0@attic"]
    )
    deliveries: int | None = Field(description="How often a worker was handed it.", examples=[1])
    retries: int | None = Field(description="How often it was tried again by its own wish.", examples=[0])
    preemptions: int | None = Field(description="How often it made room for more urgent work.", examples=[0])
    sent_at: float | None = Field(description="Seconds since the epoch.", examples=[1763769600.5])
    due_at: float | None = Field(description="Of a delayed one: when its time comes.", examples=[None])
    started_at: float | None = Field(description="Its last run's begin.", examples=[None])
    waited_s: float | None = Field(examples=[1.2])
    ran_s: float | None = Field(examples=[None])
    cancelled: bool = Field(description="Whether it was taken back.", examples=[False])
    progress: Progress | None
    result: Any = Field(description="What it gave, where it succeeded.", examples=[None])
    error: Failure | None

    @classmethod
    def of(cls, state: TaskState) -> Self:
        """As it is told."""
        device, _, node = (state.worker or "").partition("@")
        told = sound(state.to_dict())
        names = ("state", "name", "queue", "priority", "position", "why", "worker", "standby", "deliveries", "retries")
        times = ("preemptions", "sent_at", "due_at", "started_at", "waited_s", "ran_s", "cancelled", "result")
        return cls(
            task_id=state.id,
            ended=state.has_ended,
            requirements=told["needs"],
            device=device or None,
            node=node or None,
            progress=told["progress"] and Progress(done=told["progress"][0], total=told["progress"][1]),
            error=told["error"] and Failure(type=told["error"][0], message=told["error"][1]),
            **{name: told[name] for name in (*names, *times)},
        )


def sound(told: dict[str, Any]) -> dict[str, Any]:
    """As it can be sent: what others wrote may hold lone surrogates."""
    try:
        to_json(told)
    except (ValueError, PydanticSerializationError):
        text = json.dumps(told, ensure_ascii=False, default=str).encode(errors="replace")
        found: dict[str, Any] = json.loads(text)
        return found
    return told


class Cancellation(BaseModel):
    """What a cancellation met."""

    task_id: str = Field(examples=[_ID])
    was: str = Field(
        description="`waiting`: it was taken out of its queue; `running`: its run was ended; `unknown`: it was not "
        "seen, and every worker drops it if it comes within seven days.",
        examples=["waiting"],
    )
    state: str | None = Field(description="Its state by now; null for an unknown one.", examples=["REVOKED"])
