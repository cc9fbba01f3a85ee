"""What happens in a mesh, as its events tell it: the types there are, and what each says (docs/events.md)."""

from __future__ import annotations

from typing import Any

__all__ = ["FIELDS", "GROUPS", "group", "happened"]

_TASK = ("task_id", "name", "queue", "worker")
_GATE = ("queue", "reason", "scope", "by", "since", "until", "why")
_ALERT = ("level", "rule", "subject", "text", "remedy", "since")
#: By type, what an event has beside `type` and `at` (s since the epoch). Never what is in a task.
FIELDS: dict[str, tuple[str, ...]] = {
    "task.sent": _TASK,
    "task.received": _TASK,
    "task.started": _TASK,
    "task.succeeded": (*_TASK, "ran_s"),
    "task.failed": (*_TASK, "error"),
    "task.retried": (*_TASK, "error"),
    "task.preempted": (*_TASK, "why"),
    "task.revoked": _TASK,
    "task.rejected": _TASK,
    "worker.online": ("worker",),
    "worker.offline": ("worker",),
    "worker.silent": ("worker", "silent_s"),
    "queue.paused": _GATE,
    "queue.resumed": _GATE,
    "alert.raised": _ALERT,
    "alert.cleared": _ALERT,
    "alert.told": _ALERT,
    "node.joined": ("node",),
    "node.online": ("node",),
    "node.offline": ("node",),
    "node.removed": ("node",),
    "node.state": ("node", "state", "was"),
    "device.state": ("node", "worker", "state", "was"),
    "device.cordoned": ("node", "worker", "why"),
    "device.uncordoned": ("node", "worker"),
    "endpoint.state": ("endpoint", "state", "was"),
    "mesh.connected": ("away_s",),
    "mesh.disconnected": ("why",),
}


def group(type: str) -> str:
    """`task` of `task.sent`."""
    return type.partition(".")[0]


GROUPS = tuple(dict.fromkeys(map(group, FIELDS)))


def happened(type: str, at: float, **told: Any) -> dict[str, Any]:
    """An event: every field that its type has, None where nothing is known. Raises ValueError for another one."""
    if unknown := told.keys() - set(FIELDS[type]):
        raise ValueError(f"{type} has no {', '.join(sorted(unknown))}")
    return {"type": type, "at": at, **{name: told.get(name) for name in FIELDS[type]}}
