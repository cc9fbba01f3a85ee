"""Lists of tasks (SPEC A1): `/tasks/active`, `/tasks/completed`."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import fields
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from gpu_mesh.api.access import Follower, Reader
from gpu_mesh.api.backend import Served
from gpu_mesh.api.models.lists import Listed, TaskList
from gpu_mesh.api.problems import Invalid, Refused, responses
from gpu_mesh.api.waiting import Waiting
from gpu_mesh.domain.tokens import Role, may
from gpu_mesh.services import task_lists
from gpu_mesh.services.task_lists import Cursor, Filter, Page, Row

__all__ = ["router"]

router = APIRouter(tags=["tasks"])

#: Tasks that one request may name.
MAX_IDS = 100
MAX_LIMIT = 10_000

_Cursor = Annotated[str | None, Query(max_length=1000, description="`next` of the page before.")]
State = Annotated[str | None, Query(max_length=40, description="Only those in this state.", examples=["WAITING"])]
Queue = Annotated[str | None, Query(max_length=255, description="Only those of this queue.", examples=["customer"])]
Name = Annotated[str | None, Query(max_length=255, description="Only those of this type or name.")]
Worker = Annotated[str | None, Query(max_length=255, description="Only those of this worker.", examples=["gpu0@desk"])]
Node = Annotated[str | None, Query(max_length=255, description="Only those of this node's workers.", examples=["desk"])]


@router.get("/tasks/active", response_model=TaskList, responses=responses(422, 503))
def active(
    served: Served,
    caller: Follower,
    waiting: Waiting,
    state: State = None,
    queue: Queue = None,
    name: Name = None,
    worker: Worker = None,
    node: Node = None,
    ids: Annotated[
        str | None, Query(max_length=7_000, description=f"Only these tasks: up to {MAX_IDS}, with commas. Cheap.")
    ] = None,
    limit: Annotated[
        int | None, Query(ge=1, le=MAX_LIMIT, description="Tasks of a page; without it all, which costs the more.")
    ] = None,
    cursor: _Cursor = None,
) -> Response:
    """What runs, is delayed or waits, by id: a task that is not there any more has ended. The mesh's own periodic work
    is left out. A task that moves while pages are read may be on two; none that is active all the while is missing."""
    wanted = Filter(state, queue, name, worker, node)
    if ids is not None:
        return _answer(_named(waiting, ids, wanted), total=True)
    if not may(caller.roles, (Role.READ,)):
        detail = f"{caller.name} may see the tasks whose ids it names: give `ids`, or take a token of the role read"
        raise Refused(403, "forbidden", detail)
    page = task_lists.active(served.client, served.settings, wanted, limit, _read(cursor))
    return _answer(page, total=cursor is None)


@router.get("/tasks/completed", response_model=TaskList, responses=responses(422, 503))
def completed(
    served: Served,
    caller: Reader,
    state: State = None,
    queue: Queue = None,
    name: Name = None,
    worker: Worker = None,
    node: Node = None,
    since: Annotated[float | None, Query(ge=0, description="Ended since then, s since the epoch.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Tasks of a page.")] = 100,
    cursor: _Cursor = None,
) -> Response:
    """The last 10 000 runs that ended, newest first; of a task that ran several times the last one. Tasks that were
    cancelled before they ran are not among them."""
    wanted = Filter(state, queue, name, worker, node, since)
    page = task_lists.completed(served.client, served.settings, wanted, limit, _read(cursor))
    return _answer(page, total=cursor is None)


def _named(waiting: Waiting, ids: str, wanted: Filter) -> Page:
    names = list(dict.fromkeys(filter(None, ids.split(","))))
    if len(names) > MAX_IDS:
        raise Invalid("ids", f"{len(names)} of them", f"at most {MAX_IDS}")
    rows: dict[str, Row] = {}
    for name, found in waiting.tracker.find_all(names).items():
        if not found.has_ended:
            told: dict[str, Any] = found.to_dict()
            row = Row(**{item.name: told[item.name] for item in fields(Row) if item.name in told})
            if wanted.takes(row):
                rows[name] = row
    return Page(rows, None)


def _answer(page: Page, *, total: bool) -> Response:
    """`total`: a page that has no next one is the whole."""
    told = TaskList(
        tasks={task_id: Listed.of(row) for task_id, row in page.rows.items()},
        total=len(page.rows) if total and page.next is None else None,
        next=None if page.next is None else _written(page.next),
    )
    return Response(told.model_dump_json(), media_type="application/json")


def _written(cursor: Cursor) -> str:
    return base64.urlsafe_b64encode(json.dumps(cursor).encode()).decode().rstrip("=")


def _read(text: str | None) -> list[Any]:
    if text is None:
        return []
    try:
        found = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if not isinstance(found, list) or not found:
            raise ValueError
    except (ValueError, RecursionError, binascii.Error):
        raise Invalid("cursor", text, "the `next` of the page before, as it was given") from None
    return found
