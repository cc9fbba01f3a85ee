"""One task: where it is, what came of it, and taking it back."""

from __future__ import annotations

from typing import Annotated

from celery import states
from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool

from gpu_mesh.api.access import Follower, Submitter
from gpu_mesh.api.backend import Served
from gpu_mesh.api.models.tasks import Cancellation, Task
from gpu_mesh.api.names import TaskId
from gpu_mesh.api.problems import NotFound, Refused, responses
from gpu_mesh.api.waiting import Waiting, ended_within
from gpu_mesh.services import lookup
from gpu_mesh.services.tracking import UNKNOWN

__all__ = ["router"]

router = APIRouter(tags=["tasks"])

WaitS = Annotated[
    float,
    Query(
        ge=0, description="Wait up to so many seconds for its end; at most `GPU_MESH_API_MAX_WAIT_S`.", examples=[30]
    ),
]


@router.get("/tasks/{task_id}", responses=responses(404, 422, 503))
async def task(
    request: Request, served: Served, caller: Follower, waiting: Waiting, task_id: TaskId, wait: WaitS = 0
) -> Task:
    """Where a task is and, once it ended, its result or error. With `wait` the answer comes when it has ended, or that
    time is over."""
    if wait:
        await ended_within(waiting, request, task_id, served.settings, wait)
    found = await run_in_threadpool(waiting.tracker.find, task_id)
    if found is None:
        raise NotFound("task_id", task_id, UNKNOWN)
    return Task.of(found)


@router.delete("/tasks/{task_id}", responses=responses(409, 422, 503))
def cancel(served: Served, caller: Submitter, task_id: TaskId) -> Cancellation:
    """Take a task back: waiting, delayed or running. One that is unknown is remembered, so that it is dropped if it
    comes; one that has ended is 409."""
    met = lookup.cancel(served.app, served.settings, task_id)
    if met.was == "done":
        raise Refused(409, "ended", f"task_id={task_id!r}: it has ended already, as {met.state}")
    return Cancellation(task_id=task_id, was=met.was, state=None if met.was == "unknown" else states.REVOKED)
