"""Sending tasks (SPEC A1)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from celery.utils import uuid
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from gpu_mesh.api import problems
from gpu_mesh.api.access import Caller, Submitter
from gpu_mesh.api.backend import Backend, Served
from gpu_mesh.api.idempotency import REPLAYED, IdempotencyKey, reserved
from gpu_mesh.api.models.submitting import Batch, BatchSubmitted, SubmissionAndWait, Submitted
from gpu_mesh.api.models.tasks import Task
from gpu_mesh.api.problems import Refused, responses
from gpu_mesh.api.sending import Call, PartlySent, checked, send
from gpu_mesh.api.waiting import Waiting, ended_within
from gpu_mesh.errors import BrokerUnavailable, ServiceUnavailable
from gpu_mesh.services.lookup import DELAYED, WAITING
from gpu_mesh.store import reservations
from gpu_mesh.store.client import mapped_errors

__all__ = ["router"]

router = APIRouter(tags=["tasks"])

_ID = {"description": "The task's path.", "schema": {"type": "string"}}
_REPLAYED = {"description": "`true` where the request was answered before.", "schema": {"type": "string"}}


@router.post(
    "/tasks/submit",
    status_code=201,
    response_model=Submitted,
    responses={
        **responses(409, 413, 422, 503),
        200: {"model": Task, "description": "With `wait`: it has ended."},
        201: {"headers": {"Location": _ID, REPLAYED: _REPLAYED}},
        202: {"model": Task, "description": "With `wait`: it has not ended in that time."},
    },
)
async def submit(
    request: Request,
    served: Served,
    caller: Submitter,
    waiting: Waiting,
    body: SubmissionAndWait,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Have a task done. Nothing is sent where anything is wrong. 503 with Retry-After while nobody can do realtime
    work, and while Redis is away or full."""
    call = await run_in_threadpool(checked, served.app, body)
    (task_id,), is_replay = await run_in_threadpool(_send, served, caller, idempotency_key, body, [call])
    headers = {"Location": f"/tasks/{task_id}"} | ({REPLAYED: "true"} if is_replay else {})
    if body.wait:
        await ended_within(waiting, request, task_id, served.settings, body.wait)
        if (found := await run_in_threadpool(waiting.tracker.find, task_id)) is not None:
            return _json(Task.of(found), 200 if found.has_ended else 202, headers)
    told = Submitted(
        task_id=task_id,
        state=DELAYED if call.is_delayed else WAITING,
        queue=call.queue,
        priority=call.priority,
        status_url=f"/tasks/{task_id}",
    )
    return _json(told, 201, headers)


@router.post(
    "/tasks/batch",
    status_code=201,
    response_model=BatchSubmitted,
    responses={**responses(409, 413, 422, 503), 201: {"headers": {REPLAYED: _REPLAYED}}},
)
def submit_batch(served: Served, caller: Submitter, body: Batch, idempotency_key: IdempotencyKey = None) -> Response:
    """Have up to 1 000 tasks done. Nothing is sent where anything is wrong with any of them. Where Redis goes away half
    way the 503 lists what was `sent`, and what is `unsure`; sent again with the same Idempotency-Key, the rest is."""
    calls = [checked(served.app, one, f"tasks.{index}.") for index, one in enumerate(body.tasks)]
    ids, is_replay = _send(served, caller, idempotency_key, body, calls)
    return _json(BatchSubmitted(task_ids=list(ids)), 201, {REPLAYED: "true"} if is_replay else {})


def _send(
    served: Backend, caller: Caller, key: str | None, body: BaseModel, calls: Sequence[Call]
) -> tuple[Sequence[str], bool]:
    """Send what was not sent yet; the tasks' ids, and whether the request came before."""
    found = reserved(served, caller, key, body, [uuid() for _ in calls])
    ids = found.ids if found else [uuid() for _ in calls]
    if found is None or not found.is_done:
        try:
            send(calls, ids, found)
        except PartlySent as exc:
            raise _unsent(served, exc, found) from exc
    if found is not None and not found.is_done:
        with mapped_errors(served.settings):
            if not reservations.confirm(served.client, found):
                raise Refused(
                    409, "idempotency-key-in-use", "another request with this Idempotency-Key was given up: try again"
                )
    return ids, found is not None and not found.is_first


def _unsent(served: Backend, exc: PartlySent, found: reservations.Reservation | None) -> Refused:
    """The problem that says what was sent. A key under which nothing was sent is free again."""
    # What was refused before it was sent is not; of what Redis did not answer nobody knows.
    sent, unsure = exc.sent, [] if isinstance(exc.why, ServiceUnavailable) else [exc.unsure]
    if found is not None:
        # Where that fails it stands, and who comes with it again has the rest sent.
        with suppress(BrokerUnavailable), mapped_errors(served.settings):
            unsure = [] if reservations.give_up(served.client, found) else unsure
    refused = problems.refusal(exc.why)
    refused.extra = {"sent": sent, "unsure": unsure}
    return refused


def _json(body: BaseModel, status: int, headers: dict[str, str]) -> Response:
    return Response(body.model_dump_json(), status, headers, media_type="application/json")
