"""The mesh as a whole: what is there, what waits and runs, and what an operator does, for an application's own code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from types import TracebackType
from typing import Any, Never, Self, Unpack

import celery

from gpu_mesh.domain.moments import span_s
from gpu_mesh.domain.queues import OWN_TASKS
from gpu_mesh.domain.untyped import number
from gpu_mesh.errors import InvalidSetting, InvalidValue
from gpu_mesh.sdk.calls import Call, submit, submit_many
from gpu_mesh.sdk.job import Job
from gpu_mesh.sdk.options import Options
from gpu_mesh.services import alerts, drains, gates, lookup, snapshot, stats, windows
from gpu_mesh.services.alerts import Overview
from gpu_mesh.services.drains import Drained
from gpu_mesh.services.gates import Changed
from gpu_mesh.services.lookup import TaskView
from gpu_mesh.services.snapshot import NodeView, QueueView, Snapshot
from gpu_mesh.services.stats_views import LONGEST_S, Report
from gpu_mesh.services.windows import Today
from gpu_mesh.settings import Settings, env_name, settings
from gpu_mesh.store.client import connect

__all__ = ["Mesh"]

#: Longest that a job may be given to yield, s: a day.
LONGEST_YIELD_S = 86_400.0
#: What the operators' command line calls an argument, and we do.
_FIELDS = {"--until": "until", "--scope": "scope", "NAME": "name"}


class Mesh:
    """The mesh of this process's settings, from any of its threads. Every method raises BrokerUnavailable.

    A process has one mesh: the Celery app reads `GPU_MESH_…` once. It connects when first asked; `close`, or the end
    of `with Mesh() as mesh:`, lets that connection go.
    """

    def __init__(self, **given: Never) -> None:
        """Takes no settings: set them in the environment or `.env`. Raises InvalidSetting."""
        for field, value in dict[str, Any](given).items():
            known = env_name(field) if field in Settings.model_fields else "a GPU_MESH_… name of docs/settings.md"
            raise InvalidSetting(field, value, f"set {known} in the environment: a process has one mesh")
        self._settings = settings()
        self._client: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _exc: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the connection go; asked again, it connects again."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def submit(
        self,
        task: str | celery.Task,
        /,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[Options],
    ) -> Job:
        """As `gpu_mesh.submit`."""
        return submit(task, *args, kwargs=kwargs, **options)

    def submit_many(self, calls: Iterable[Call]) -> list[Job]:
        """As `gpu_mesh.submit_many`."""
        return submit_many(calls)

    def task(self, task_id: str) -> Job:
        """The task of that id, also one that another process sent. Whether there is one, `Job.info` says."""
        return Job(task_id)

    def status(self) -> Snapshot:
        """Nodes, queues, what runs, alerts and rates at one moment."""
        if self._client is None:
            self._client = connect(self._settings)
        return snapshot.read_from(self._client, self._settings)

    def nodes(self) -> list[NodeView]:
        """Nodes and their devices, those that are silent too."""
        return self.status().nodes

    def queues(self) -> list[QueueView]:
        """How many wait and run in each, and why one is closed."""
        return self.status().queues

    def waiting(self, queue: str | None = None, *, limit: int = 50) -> list[TaskView]:
        """Tasks that wait, in the order in which they would be claimed; then those that are delayed."""
        if queue is not None and queue not in lookup.known_queues(self._settings):
            raise InvalidValue("queue", queue, f"one of {', '.join(lookup.known_queues(self._settings))}")
        return _applications(lookup.waiting_tasks(self._settings, queue, _limit(limit)), limit)

    def running(self, *, limit: int = 50) -> list[TaskView]:
        """Tasks that run, longest first."""
        return _applications(lookup.running_tasks(self._settings), _limit(limit))

    def finished(self, *, limit: int = 50) -> list[TaskView]:
        """Tasks that ended lately, the last first."""
        return _applications(lookup.finished_tasks(self._settings, _limit(limit)), limit)

    def pause(
        self, queue: str, *, until: str | None = None, why: str = "", scope: str = "mesh", by: str | None = None
    ) -> Changed:
        """Hand out nothing of a queue until it is resumed, or until then: `20:00`, `2026-11-30 09:00`, `2h`.

        `scope`: the mesh, a node, or a worker such as `gpu0@office`. Raises UnknownQueue, InvalidValue.
        """
        with _our_names():
            return gates.pause(self._settings, queue, scope=scope, until=until, why=why, by=by)

    def resume(self, queue: str, *, until: str | None = None, scope: str = "mesh", by: str | None = None) -> Changed:
        """End a pause; with `until` peak hours do not close the queue before then either."""
        with _our_names():
            return gates.resume(self._settings, queue, scope=scope, until=until, by=by)

    def drain(
        self,
        name: str,
        *,
        until: str | None = None,
        why: str = "",
        by: str | None = None,
        yield_s: float | None = None,
    ) -> Drained:
        """A node or a device (`gpu0@office`) takes no work until it is undrained, or until then.

        What runs there goes on to its end; with `yield_s` it is asked to yield, and interrupted after so many seconds:
        it goes on elsewhere. Raises InvalidValue.
        """
        if yield_s is not None and (number(yield_s) is None or not 0 <= yield_s <= LONGEST_YIELD_S):
            raise InvalidValue("yield_s", yield_s, f"seconds, 0 to {LONGEST_YIELD_S:g}")
        with _our_names():
            return drains.drain(self._settings, name, until=until, why=why, by=by, yield_s=yield_s)

    def undrain(self, name: str) -> Drained:
        """It takes work again, unless something else keeps it from that, which is said."""
        with _our_names():
            return drains.undrain(self._settings, name)

    def alerts(self, *, every: bool = False) -> Overview:
        """Alerts that stand, and those that ended within a day; with `every` all that are kept."""
        return alerts.read(self._settings, every=every)

    def stats(self, span: str | float = "1h") -> Report:
        """What ended in the last `10m`, `1h`, `24h` (or so many seconds), how long it took, what it cost."""
        found = span_s(span) if isinstance(span, str) else number(span)
        if found is None or not 0 < found <= LONGEST_S:
            raise InvalidValue("span", span, "a span of time up to a day: 10m, 1h, 24h, or seconds")
        return stats.report(self._settings, found)

    def windows(self) -> Today:
        """Today's peak hours, in which ai-batch is closed, and the next change."""
        return windows.today(self._settings)


def _limit(limit: int) -> int:
    if not isinstance(limit, int) or limit < 1:
        raise InvalidValue("limit", limit, "1 or more")
    return limit


def _applications(tasks: Iterable[TaskView], limit: int) -> list[TaskView]:
    """Without the mesh's own periodic work."""
    return list(islice((task for task in tasks if not task.name.startswith(OWN_TASKS)), limit))


@contextmanager
def _our_names() -> Iterator[None]:
    """A refusal names our argument, not the command line's."""
    try:
        yield
    except InvalidValue as exc:
        if (field := _FIELDS.get(exc.field)) is None:
            raise
        raise type(exc)(field, exc.value, exc.remedy) from None
