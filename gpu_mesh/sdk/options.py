"""The options of `submit`, as editors and mypy complete and check them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, TypedDict

from gpu_mesh.domain.preemption import Preemptible
from gpu_mesh.domain.untyped import number
from gpu_mesh.errors import InvalidTask

__all__ = ["Options", "check_options"]

#: Longest delay and limit, s: a year.
LONGEST_S = 366 * 86_400
#: Longest id a caller may give a task, characters.
LONGEST_ID = 200
_TIMES = ("countdown", "time_limit", "soft_time_limit")


class Options(TypedDict, total=False):
    """How a task is to run (docs/tasks.md); None is as good as left out."""

    business: Literal["revenue", "customer", "internal"] | None
    queue: str | None
    #: 0 (low) to 10 (critical); 5 is normal.
    priority: int | None
    #: Device memory it needs, GB.
    memory_gb: float | None
    #: GPUs of one node; 0: a CPU will do.
    gpu_count: int | None
    #: A preference, `RTX 4090`; with `require_gpu_type` no other one will do.
    gpu_type: str | None
    require_gpu_type: bool | None
    #: The model it runs.
    model: str | None
    #: Only there: `office`; `gpu0`, `gpu0@office`.
    node: str | None
    device: str | None
    #: Whether it may run where only an engine's address is.
    remote: bool | None
    #: Labels the device must carry, `{"trust": "owned"}`.
    labels: Mapping[str, str] | None
    #: Any of the needs above, and free fields, `{"epochs": 3}`.
    requirements: Mapping[str, Any] | None
    #: Whether it makes room for realtime work: at its next checkpoint, never, or killed and begun anew.
    preemptible: Preemptible | None
    #: Not before: in so many s, or at that time.
    countdown: float | None
    eta: datetime | None
    #: Not after: in so many s, or at that time; then it ends as REVOKED.
    expires: float | datetime | None
    #: How long it may run, s: it is killed; or SoftTimeLimitExceeded is raised in it.
    time_limit: float | None
    soft_time_limit: float | None
    #: Its id, where the caller makes them; left out, one is made.
    task_id: str | None


def check_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those given, that is not None. Raises InvalidTask for a name that is none, and for what Celery would stumble
    over; `prepare` checks the mesh's own.
    """
    for name in given.keys() - Options.__annotations__.keys():
        near = difflib.get_close_matches(name, Options.__annotations__, n=1)
        hint = f"did you mean {near[0]}?" if near else "keyword arguments of the task go into kwargs={…}"
        raise InvalidTask(name, given[name], f"no such option; {hint}")
    found = {name: value for name, value in given.items() if value is not None}
    for name in _TIMES:
        if name in found:
            found[name] = _seconds(name, found[name])
    if "expires" in found and not isinstance(found["expires"], datetime):
        found["expires"] = _seconds("expires", found["expires"])
    if "eta" in found and not isinstance(found["eta"], datetime):
        raise InvalidTask("eta", found["eta"], "a datetime")
    if "eta" in found and "countdown" in found:
        raise InvalidTask("countdown", found["countdown"], "give either countdown or eta, not both")
    task_id = found.get("task_id", "x")
    if not isinstance(task_id, str) or not task_id.isprintable() or not 0 < len(task_id) <= LONGEST_ID:
        raise InvalidTask("task_id", task_id, f"printable text of 1 to {LONGEST_ID} characters")
    return found


def _seconds(name: str, value: object) -> float:
    found = number(value)
    if found is None or not 0 <= found <= LONGEST_S:
        raise InvalidTask(name, value, f"seconds, 0 to {LONGEST_S}")
    return found
