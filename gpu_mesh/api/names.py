"""Parameters that many routes have, and lists a page at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, TypeVar

from fastapi import Path, Query

from gpu_mesh.api.problems import NotFound
from gpu_mesh.errors import InvalidValue

__all__ = ["After", "Limit", "NodeName", "QueueName", "TaskId", "WorkerName", "page", "path_name"]

T = TypeVar("T")

#: Longest name that is looked for, characters.
LONGEST = 200

Limit = Annotated[int, Query(ge=1, le=10_000, description="At most so many.")]
After = Annotated[
    str | None,
    Query(max_length=LONGEST, description="Only names behind this one: `next` of the answer before.", alias="cursor"),
]
QueueName = Annotated[
    str, Path(max_length=LONGEST, description="A queue.", examples=["ai-batch"], pattern=r"^[A-Za-z0-9._-]+$")
]
NodeName = Annotated[
    str, Path(max_length=LONGEST, description="A node.", examples=["office"], pattern=r"^[A-Za-z0-9._-]+$")
]
WorkerName = Annotated[
    str,
    Path(
        max_length=LONGEST,
        description="A node, or a device of one.",
        examples=["gpu0@office"],
        pattern=r"^[A-Za-z0-9._@-]+$",
    ),
]

#: What the mesh keeps of one.
TaskId = Annotated[
    str,
    Path(
        min_length=1,
        max_length=LONGEST,
        description="A task, by the id that the answer to its submit had.",
        examples=["3f0c1a52-6a1e-4b0e-9a57-5a1fa0f4b0c1"],
        pattern=r"^[!-~]+$",
    ),
]


@contextmanager
def path_name(name: str, field: str) -> Iterator[None]:
    """Where a service refuses its `field`, nothing of that name in the path is known: 404."""
    try:
        yield
    except InvalidValue as exc:
        if exc.field != field:
            raise
        raise NotFound(name, str(exc.value), exc.remedy) from None


def page(found: Mapping[str, T], after: str | None, limit: int) -> tuple[dict[str, T], str | None]:
    """The first `limit` by name behind `after`; and the last of them, where there are more."""
    names = sorted(name for name in found if after is None or name > after)
    shown = names[:limit]
    return {name: found[name] for name in shown}, shown[-1] if len(names) > limit else None
