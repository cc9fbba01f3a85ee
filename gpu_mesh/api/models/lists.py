"""Lists of tasks."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field

from gpu_mesh.api.models.tasks import sound
from gpu_mesh.services.task_lists import Row

__all__ = ["Listed", "TaskList"]

_ID = "3f0c1a52-6a1e-4b0e-9a57-5a1fa0f4b0c1"


class Listed(BaseModel):
    """A task in a list. Null: not known, or it does not apply. `GET /tasks/{id}` says more."""

    name: str | None = Field(description="The task's type or name.", examples=["llm_inference"])
    state: str = Field(description="As in `GET /tasks/{id}`.", examples=["STARTED"])
    queue: str | None = Field(examples=["customer"])
    priority: int | None = Field(description="0 to 10.", examples=[8])
    worker: str | None = Field(description="Who runs or ran it.", examples=["gpu0@desk"])
    why: str | None = Field(description="Why it cannot run now.", examples=[None])
    sent_at: float | None = Field(description="Seconds since the epoch.", examples=[1763769600.5])
    due_at: float | None = Field(description="Of a delayed one: when its time comes.", examples=[None])
    started_at: float | None = Field(description="Its last run's begin.", examples=[1763769601.7])
    ended_at: float | None = Field(description="Its last run's end.", examples=[None])
    waited_s: float | None = Field(examples=[1.2])
    ran_s: float | None = Field(examples=[4.5])

    @classmethod
    def of(cls, row: Row) -> Self:
        """As it is told."""
        told = sound(row.to_dict())
        return cls(**{name: value for name, value in told.items() if name != "id"})


class TaskList(BaseModel):
    """Tasks by id."""

    tasks: dict[str, Listed] = Field(
        examples=[{_ID: {"name": "llm_inference", "state": "STARTED", "queue": "customer", "worker": "gpu0@desk"}}]
    )
    total: int | None = Field(
        description="How many there are in all; null where that would take a look at each.", examples=[1]
    )
    next: str | None = Field(
        description="What to give as `cursor` for the next page; null where this is the last one.", examples=[None]
    )
