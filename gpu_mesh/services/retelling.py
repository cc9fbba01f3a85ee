"""Celery's events as the mesh tells them (domain/happenings): with a task's name and queue, without what is in it."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gpu_mesh.domain.happenings import happened
from gpu_mesh.domain.queues import OWN_TASKS

__all__ = ["Reteller"]

#: Tasks whose name and queue are remembered: only the first of their events tell these.
KEPT = 10_000
#: A worker that misses so many of its heartbeats is silent.
MISSED = 3
#: How Celery's event of a preempted job begins its exception (workers/request), and what follows.
_PREEMPTED = re.compile(r"Preempted\('(?P<why>.*)'\)$", re.DOTALL)
#: The class in an exception's repr.
_CLASS = re.compile(r"[A-Za-z_]\w*")
_TYPES = {
    "task-sent": "task.sent",
    "task-received": "task.received",
    "task-started": "task.started",
    "task-succeeded": "task.succeeded",
    "task-failed": "task.failed",
    "task-retried": "task.retried",
    "task-revoked": "task.revoked",
    "task-rejected": "task.rejected",
    "worker-online": "worker.online",
    "worker-offline": "worker.offline",
}


class Reteller:
    """Remembers what later events of a task leave out, and when each worker was heard of."""

    def __init__(self) -> None:
        self._tasks: OrderedDict[str, tuple[str | None, str | None]] = OrderedDict()
        #: By worker: when it was heard of last, and how long it may be silent, s.
        self._heard: dict[str, tuple[float, float]] = {}
        self._silent: set[str] = set()

    def remember(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Tasks that run already, as the journal has them."""
        for entry in entries:
            self._keep(str(entry["id"]), entry.get("name"), entry.get("queue"))

    def retell(self, event: Mapping[str, Any], now: float) -> Iterator[dict[str, Any]]:
        """What Celery's `event`, heard at `now`, tells; nothing of heartbeats as usual and of the mesh's own tasks."""
        kind, worker = str(event.get("type")), str(event.get("hostname"))
        at = event.get("timestamp")
        at = float(at) if isinstance(at, (int, float)) else now
        if kind.startswith("worker-"):
            yield from self._worker(kind, worker, event, at, now)
        elif kind in _TYPES and isinstance(event.get("uuid"), str):
            yield from self._task(_TYPES[kind], worker, event, at)

    def silent(self, now: float) -> Iterator[dict[str, Any]]:
        """Workers that have not been heard of for too long, once each."""
        for worker, (at, patience_s) in self._heard.items():
            if now - at > patience_s and worker not in self._silent:
                self._silent.add(worker)
                yield happened("worker.silent", now, worker=worker, silent_s=round(now - at, 1))

    def forget_times(self, now: float) -> None:
        """Nobody could be heard until `now`."""
        self._heard = {worker: (now, patience_s) for worker, (_, patience_s) in self._heard.items()}

    def _worker(
        self, kind: str, worker: str, event: Mapping[str, Any], at: float, now: float
    ) -> Iterator[dict[str, Any]]:
        was_silent = worker in self._silent
        self._silent.discard(worker)
        if kind == "worker-offline":
            self._heard.pop(worker, None)
        else:
            every_s = event.get("freq")
            self._heard[worker] = now, MISSED * (float(every_s) if isinstance(every_s, (int, float)) else 2.0) + 1
        if kind in _TYPES:
            yield happened(_TYPES[kind], at, worker=worker)
        elif was_silent:
            yield happened("worker.online", at, worker=worker)

    def _task(self, type: str, worker: str, event: Mapping[str, Any], at: float) -> Iterator[dict[str, Any]]:
        task_id = str(event["uuid"])
        name, queue = self._keep(task_id, event.get("name"), event.get("queue"))
        if str(name).startswith(OWN_TASKS):
            return
        told: dict[str, Any] = {}
        if type == "task.succeeded":
            told["ran_s"] = event.get("runtime")
        elif type == "task.retried" and (preempted := _PREEMPTED.match(str(event.get("exception")))):
            type, told["why"] = "task.preempted", preempted["why"]
        elif type in ("task.failed", "task.retried"):
            error = _CLASS.match(str(event.get("exception")))
            told["error"] = error[0] if error else None
        by = None if type == "task.sent" else worker  # its sender is no worker
        yield happened(type, at, task_id=task_id, name=name, queue=queue, worker=by, **told)

    def _keep(self, task_id: str, name: Any, queue: Any) -> tuple[str | None, str | None]:
        known = self._tasks.pop(task_id, (None, None))
        known = known[0] or (str(name) if name else None), known[1] or (str(queue) if queue else None)
        self._tasks[task_id] = known
        while len(self._tasks) > KEPT:
            self._tasks.popitem(last=False)
        return known
