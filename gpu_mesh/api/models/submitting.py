"""What a client sends to have tasks done, and the answer."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from gpu_mesh.api.models.values import JsonList, JsonObject

__all__ = ["Batch", "BatchSubmitted", "Submission", "SubmissionAndWait", "Submitted"]

#: Tasks of one batch.
MAX_BATCH = 1000
#: Longest delay or life, s: ten years.
LONGEST_S = 315_360_000
EXAMPLE: dict[str, Any] = {
    "task_type": "llm_inference",
    "args": ["Why is the sky blue?"],
    "requirements": {"memory_gb": 6, "gpu_type": "RTX 4090", "model": "gemma4:e4b"},
    "business": "customer",
    "priority": 8,
}


class Submission(BaseModel):
    """One task."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE]})

    task_type: str = Field(
        description="A built-in type (`custom`, `embeddings`, `llm_inference`, `test`, `training`), or the name of a "
        "task of a module in `GPU_MESH_INCLUDE`.",
        examples=["llm_inference"],
        max_length=255,
    )
    args: JsonList = Field(
        default_factory=list, description="Its positional arguments.", examples=[["Why is the sky blue?"]]
    )
    kwargs: JsonObject = Field(default_factory=dict, description="Its named arguments.", examples=[{}])
    requirements: JsonObject = Field(
        default_factory=dict,
        description="What it needs of a device: `memory_gb`, `gpu_count` (0: a CPU will do), `gpu_type` (preferred), "
        "`require_gpu_type` (no other will do), `model`, `labels`, `node`, `device`, `remote`; any other name is a "
        "free field, which the task may read.",
        examples=[{"memory_gb": 6, "gpu_type": "RTX 4090", "epochs": 3}],
    )
    priority: int | None = Field(
        default=None, strict=True, ge=0, le=10, description="0 (low) to 10 (critical); 5 is normal.", examples=[8]
    )
    business: str | None = Field(
        default=None,
        description="`revenue`, `customer` or `internal`: whose work it is. Not together with another `queue`.",
        examples=["customer"],
    )
    queue: str | None = Field(default=None, description="A queue by name.", examples=["ai-batch"])
    preemptible: bool | Literal["restart"] | None = Field(
        default=None,
        description="Whether it makes room for a realtime task: at its next checkpoint (true), never (false), or "
        "killed and begun anew (`restart`).",
        examples=[True],
    )
    countdown: float | None = Field(
        default=None, ge=0, le=LONGEST_S, description="Not before this many seconds from now.", examples=[60]
    )
    eta: AwareDatetime | None = Field(
        default=None,
        description="Not before this time: ISO 8601 with a time zone. Not together with `countdown`.",
        examples=["2030-01-31T08:00:00Z"],
    )
    expires: float | None = Field(
        default=None,
        gt=0,
        le=LONGEST_S,
        description="Where it has not begun in this many seconds it is dropped, and ends as `REVOKED`.",
        examples=[3600],
    )
    ignore_result: bool | None = Field(
        default=None,
        strict=True,
        description="Keep no result, nor an error: only that it ran, and how that ended, is known.",
        examples=[False],
    )

    @model_validator(mode="after")
    def _one_time(self) -> Self:
        if self.countdown is not None and self.eta is not None:
            raise ValueError("countdown and eta: give one of the two")
        return self


class SubmissionAndWait(Submission):
    """One task, and how long to wait for its end."""

    wait: float = Field(
        default=0,
        ge=0,
        description="Wait up to so many seconds for its end; at most `GPU_MESH_API_MAX_WAIT_S`. 0: answer at once.",
        examples=[0],
    )


class Submitted(BaseModel):
    """The task is taken."""

    task_id: str = Field(description="By which it is asked for.", examples=["3f0c1a52-6a1e-4b0e-9a57-5a1fa0f4b0c1"])
    state: str = Field(
        description="`WAITING`, or `DELAYED` where it has a time; of a replayed request that of the first answer.",
        examples=["WAITING"],
    )
    queue: str = Field(description="Where it waits.", examples=["customer"])
    priority: int = Field(description="0 to 10.", examples=[8])
    status_url: str = Field(
        description="Its path; ask it, or wait there with `?wait=30`.",
        examples=["/tasks/3f0c1a52-6a1e-4b0e-9a57-5a1fa0f4b0c1"],
    )


class Batch(BaseModel):
    """Several tasks: all are checked before the first is sent."""

    model_config = ConfigDict(extra="forbid")

    tasks: list[Submission] = Field(min_length=1, max_length=MAX_BATCH, examples=[[EXAMPLE]])


class BatchSubmitted(BaseModel):
    """All are taken."""

    task_ids: list[str] = Field(
        description="In the order of the request.", examples=[["3f0c1a52-6a1e-4b0e-9a57-5a1fa0f4b0c1"]]
    )
