"""Requests that may come twice: the header `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Header
from pydantic import BaseModel

from gpu_mesh.api.access import Caller
from gpu_mesh.api.backend import Backend
from gpu_mesh.api.problems import Invalid
from gpu_mesh.store import reservations
from gpu_mesh.store.client import mapped_errors
from gpu_mesh.store.reservations import Reservation

__all__ = ["REPLAYED", "IdempotencyKey", "reserved"]

#: Header of an answer to a request that was answered before.
REPLAYED = "Idempotent-Replayed"
MAX_LENGTH = 255
_VISIBLE = re.compile(rf"[!-~]{{1,{MAX_LENGTH}}}")

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description=f"1 to {MAX_LENGTH} visible ASCII characters of your choice. Sent again with the same key within a "
        "day, the same request gives the same answer, and no second task; another request with that key is 422.",
        examples=["order-4711"],
    ),
]


def reserved(
    served: Backend, caller: Caller, key: str | None, body: BaseModel, ids: Sequence[str]
) -> Reservation | None:
    """The reservation of `ids`, or of those that the first request of that key got; None without a key.

    Raises Refused for a key that is none, or was another request's.
    """
    if key is None:
        return None
    if not _VISIBLE.fullmatch(key):
        raise Invalid("Idempotency-Key", key, f"1 to {MAX_LENGTH} visible ASCII characters")
    with mapped_errors(served.settings):
        found = reservations.reserve(served.client, _digest(f"{caller.name}\n{key}"), _digest(_told(body)), ids)
    if found.digest != _digest(_told(body)):
        remedy = "was used for another request within a day: take a new key for each"
        raise Invalid("Idempotency-Key", key, remedy, "idempotency-key-reused")
    return found


def _told(body: BaseModel) -> str:
    """What is asked for; how long to wait for it may differ."""
    left_out: Any = {"wait"}
    return f"{type(body).__name__} {body.model_dump_json(exclude=left_out)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
