"""Server-sent events: a task's words as it says them, and what happens in the mesh."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response

from gpu_mesh.api.access import Follower, Reader
from gpu_mesh.api.backend import Served
from gpu_mesh.api.events.following import END
from gpu_mesh.api.events.hub import Wanted
from gpu_mesh.api.events.live import Living
from gpu_mesh.api.events.sse import MEDIA_TYPE
from gpu_mesh.api.names import TaskId
from gpu_mesh.api.problems import Invalid, NotFound, responses
from gpu_mesh.api.waiting import Waiting
from gpu_mesh.domain.happenings import FIELDS, GROUPS
from gpu_mesh.services.lookup import known_queues
from gpu_mesh.services.reading import Position
from gpu_mesh.services.tracking import UNKNOWN
from gpu_mesh.store import streams
from gpu_mesh.store.client import check_broker, mapped_errors

__all__ = ["router"]

router = APIRouter(tags=["events"])

#: Longer ones were made by nobody.
MAX_CHARS = 256
#: One event of a stream, for the OpenAPI document.
_ITEM = {"type": "object", "properties": {name: {"type": "string"} for name in ("event", "data", "id")}}

LastId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID", description="The id of the last event received: goes on behind it.", max_length=MAX_CHARS
    ),
]


def _stream(description: str, example: str) -> dict[int | str, dict[str, Any]]:
    content = {MEDIA_TYPE: {"itemSchema": _ITEM, "example": example}}
    return {200: {"description": description, "content": content}}


def _known_task(task_id: TaskId, served: Served, waiting: Waiting) -> str:
    """The id of a task that something is known of. Raises NotFound."""
    with mapped_errors(served.settings):
        if streams.last(served.client, task_id) is not None:
            return task_id
    if waiting.tracker.find(task_id) is None:
        raise NotFound("task_id", task_id, UNKNOWN)
    return task_id


def _position(last_id: LastId = None) -> Position | str | None:
    if last_id is None or last_id == END:
        return last_id
    try:
        return Position.parse(last_id)
    except ValueError:
        raise Invalid("Last-Event-ID", last_id, "the id of an event of this task, or none") from None


_PIECES = 'event: piece\ndata: {"text": "Hello", "thinking": ""}\nid: 1763770000000-0.1.5.4157704578.0.0\n\n'


@router.get(
    "/tasks/{task_id}/stream",
    response_class=Response,
    responses={
        **_stream("`piece`, `restart`, `progress`, and at the end `done` or `error`.", _PIECES),
        204: {"description": "Last-Event-ID is that of the end: there is no more."},
        **responses(404, 422, 503),
    },
)
async def stream(
    caller: Follower,
    task_id: Annotated[str, Depends(_known_task)],
    position: Annotated[Position | str | None, Depends(_position)],
    live: Living,
) -> Response:
    """What a task says, as it says it, as server-sent events; from its beginning, or behind `Last-Event-ID`."""
    if isinstance(position, str):
        return Response(status_code=204)
    return live.response(live.task_stream(task_id, position).events())


def _wanted(
    served: Served,
    types: Annotated[
        str | None,
        Query(
            description="Only these types or groups of types, with commas between.",
            max_length=1000,
            examples=["task,alert", "task.failed"],
        ),
    ] = None,
    queue: Annotated[
        str | None, Query(description="Only events of this queue.", max_length=MAX_CHARS, examples=["ai-batch"])
    ] = None,
    task_id: Annotated[str | None, Query(description="Only events of this task.", max_length=MAX_CHARS)] = None,
) -> Wanted:
    named = None if types is None else frozenset(part.strip() for part in types.split(","))
    if unknown := (named or frozenset()) - {*FIELDS, *GROUPS}:
        raise Invalid("types", sorted(unknown)[0], f"one of {', '.join((*GROUPS, *FIELDS))}")
    if queue is not None and queue not in known_queues(served.settings):
        raise Invalid("queue", queue, f"one of {', '.join(known_queues(served.settings))}")
    check_broker(served.settings)
    return Wanted(named, queue, task_id)


_EVENT = (
    'event: task\ndata: {"type": "task.started", "at": 1763770000.25, "task_id": "6f1c5f0e-1d5c-4c9e", '
    '"name": "test", "queue": "customer", "worker": "gpu0@desk"}\nid: 1f0a77c2-17\n\n'
)


@router.get(
    "/events",
    response_class=Response,
    responses={**_stream("Events, until the client leaves.", _EVENT), **responses(422, 503)},
)
async def events(
    caller: Reader, wanted: Annotated[Wanted, Depends(_wanted)], live: Living, last_id: LastId = None
) -> Response:
    """What happens in the mesh, as server-sent events: tasks, workers, queues, alerts, nodes, devices."""
    return live.response(live.hub.listen(wanted, last_id))
