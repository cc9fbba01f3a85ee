"""From what a caller writes (`business="revenue", priority=9, memory_gb=12`) to what travels (the `mesh` header).

The header is `{"v": 1, "class": queue, "priority": 0-10, "needs": {…}, "sent_at": seconds}`, and `"preemptible"` where
somebody says so; a message without one comes from a stock producer and counts as normal. Later wins, field by field:
what the task declares, the header of the run a retry follows, what this call says.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterable, Mapping
from typing import Any

from gpu_mesh.domain.preemption import BY_RESTART, check_preemptible
from gpu_mesh.domain.queues import (
    CONTROL_QUEUE,
    DEFAULT_PRIORITY,
    check_priority,
    choose_queue,
    wire_priority,
)
from gpu_mesh.domain.requirements import REQUIREMENT_FIELDS, Requirements
from gpu_mesh.errors import InvalidTask, PayloadTooLarge
from gpu_mesh.settings import settings
from gpu_mesh.store.claims import CLAIM_HEADER

__all__ = [
    "HEADER",
    "HEADER_VERSION",
    "MESH_OPTIONS",
    "check_payload",
    "header_of",
    "needs_of",
    "prepare",
    "refuse_misspelt",
    "take",
]

#: Name of the message header.
HEADER = "mesh"
HEADER_VERSION = 1
#: Options of a task or call that the mesh reads.
MESH_OPTIONS: frozenset[str] = REQUIREMENT_FIELDS | {"queue", "business", "priority", "preemptible", "requirements"}
#: Celery's own tasks that need no device.
_CONTROL_TASKS = frozenset({"celery.accumulate", "celery.backend_cleanup", "celery.chord_unlock"})
#: How alike an unknown option and one of ours must be to be taken for a typing error, 0 to 1.
_ALIKE = 0.75
#: Bytes in a MB.
_MB = 1_000_000


def take(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split options into the mesh's (those given, that is not None) and Celery's.

    Raises InvalidTask for a name that looks like a misspelt one of ours: Celery would send it along unread.
    """
    ours = {name: value for name, value in options.items() if name in MESH_OPTIONS and value is not None}
    theirs = {name: value for name, value in options.items() if name not in MESH_OPTIONS}
    refuse_misspelt(theirs, besides=options.get("stamped_headers") or ())
    return ours, theirs


def refuse_misspelt(options: Mapping[str, Any], besides: Iterable[str] = ()) -> None:
    """Raise InvalidTask for a name that is nearly one of the mesh's options, and none of `besides`."""
    for name in options.keys() - MESH_OPTIONS - set(besides):
        if near := difflib.get_close_matches(name, MESH_OPTIONS, n=1, cutoff=_ALIKE):
            raise InvalidTask(name, options[name], f"no such option; did you mean {near[0]}?")


def prepare(task_name: str, declared: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Celery's options for one call, with queue, wire priority and the `mesh` header in place.

    Raises InvalidTask or UnknownQueue naming the field.
    """
    call, stock = take(options)
    headers = stock.get("headers") or {}
    if not isinstance(headers, Mapping):
        raise InvalidTask("headers", headers, "a mapping, for instance {'trace': 'a1'}")
    # A retry copies its run's headers: the claim is that run's alone.
    headers = {name: value for name, value in headers.items() if name != CLAIM_HEADER}
    header = _header(task_name, declared, headers.get(HEADER), call)
    return {
        **stock,
        "queue": header["class"],
        "priority": wire_priority(header["priority"]),
        "headers": {**headers, HEADER: header},
    }


def _header(task_name: str, declared: Mapping[str, Any], previous: object, call: Mapping[str, Any]) -> dict[str, Any]:
    before = header_of({HEADER: previous})
    layers = [declared, _said(before) if before else {}, call]
    # The nearest layer that names a queue in either way decides; its two ways must agree.
    chosen: Mapping[str, Any] = next(
        (layer for layer in reversed(layers) if "queue" in layer or "business" in layer), {}
    )
    default = CONTROL_QUEUE if task_name in _CONTROL_TASKS else None
    queue = choose_queue(
        task_name,
        queue=_name(chosen.get("queue", None if "business" in chosen else default)),
        business=chosen.get("business"),
        cpu_queues=lambda: settings().cpu_queues,
    )
    priority = next((layer["priority"] for layer in reversed(layers) if "priority" in layer), DEFAULT_PRIORITY)
    # A header leaves out what holds its default: it says all of what the run before needed, also of what it declared.
    needs = {**(before["needs"] if before else needs_of(declared)), **needs_of(call)}
    # Left out where nobody says: then it yields when it is asked.
    yields = next((layer["preemptible"] for layer in reversed(layers) if "preemptible" in layer), None)
    return {
        "v": HEADER_VERSION,
        "class": queue,
        "priority": check_priority(priority),
        **({} if yields is None else {"preemptible": check_preemptible(yields)}),
        "needs": Requirements.of(needs).to_dict(),
        "sent_at": round(time.time(), 3),
    }


def _said(header: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a header holds, but for its needs."""
    # A stranger may have written anything there.
    also = {"preemptible": said} if (said := header.get("preemptible")) in (True, False, BY_RESTART) else {}
    return {"queue": header["class"], "priority": header["priority"], **also}


def _name(queue: Any) -> Any:
    """Celery takes kombu's Queue objects as well as names."""
    return queue if isinstance(queue, str) else getattr(queue, "name", queue)


def needs_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The requirements among a task's or call's mesh options, unchecked. Raises InvalidTask for `requirements`."""
    free = options.get("requirements") or {}
    if not isinstance(free, Mapping):
        raise InvalidTask("requirements", free, "a mapping, for instance {'memory_gb': 6, 'epochs': 3}")
    return {**free, **{name: value for name, value in options.items() if name in REQUIREMENT_FIELDS}}


def header_of(headers: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The `mesh` header among a message's headers, or None where there is no sound one."""
    found = (headers or {}).get(HEADER)
    if not isinstance(found, dict) or not isinstance(found.get("needs"), dict):
        return None
    if not isinstance(found.get("class"), str) or not _is_priority(found.get("priority")):
        return None
    return found


def _is_priority(value: object) -> bool:
    try:
        check_priority(value)
    except InvalidTask:
        return False
    return True


def check_payload(args: object, kwargs: object) -> None:
    """Refuse arguments larger than `GPU_MESH_MAX_PAYLOAD_MB`, by a lower bound of their size as JSON.

    Raises PayloadTooLarge. A bound is enough here and costs far less than serialising twice.
    """
    limit = settings().max_payload_mb
    most = int(limit * _MB)
    size = 0
    pending = [args, kwargs]
    while pending:
        item = pending.pop()
        # Brackets and quotes count: without them, a list that holds itself would never end.
        if isinstance(item, (str, bytes)):
            size += 2 + len(item)
        elif isinstance(item, dict):
            size += 2
            pending += item.keys()
            pending += item.values()
        elif isinstance(item, (list, tuple)):
            size += 2
            pending += item
        else:
            size += 1
        if size + len(pending) > most:
            raise PayloadTooLarge(
                "args",
                f"more than {limit:g} MB",
                f"at most {limit:g} MB (GPU_MESH_MAX_PAYLOAD_MB); send a reference, or split the work",
            )
