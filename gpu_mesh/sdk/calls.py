"""Sending tasks by one call: `submit("embeddings", ["a text"], business="internal", memory_gb=2)`.

A task's positional arguments follow its name, as in `delay`. Keywords are the mesh's options alone, so that editors
complete them, a misspelt one is refused, and none can be taken for an argument of the task of the same name (`model`,
`device`); the task's own keyword arguments go into `kwargs={…}`.
"""

from __future__ import annotations

import difflib
import logging
import uuid
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Unpack

import celery
from celery.result import AsyncResult

from gpu_mesh.celery import app
from gpu_mesh.errors import InvalidSetting, InvalidTask, ServiceUnavailable, SubmittedInPart, UnknownTaskType
from gpu_mesh.sdk.job import Job
from gpu_mesh.sdk.options import Options, check_options
from gpu_mesh.settings import env_name, settings
from gpu_mesh.tasks.base import GpuTask
from gpu_mesh.tasks.calling import check_call, known_task
from gpu_mesh.tasks.options import prepare

__all__ = ["Call", "submit", "submit_many"]

logger = logging.getLogger(__name__)


def submit(
    task: str | celery.Task, /, *args: Any, kwargs: Mapping[str, Any] | None = None, **options: Unpack[Options]
) -> Job:
    """Send a task: a built-in type (`"embeddings"`), a task object, or the dotted name of an application's task.

    The code of the last need not be here; then its workers check the arguments, and its decorator's options do not
    hold. Raises InvalidTask and UnknownTaskType before anything is sent, BrokerUnavailable, ServiceUnavailable.
    """
    return Call(task, *args, kwargs=kwargs, **options).send()


def submit_many(calls: Iterable[Call]) -> list[Job]:
    """Send several over one connection: `submit_many([Call("embeddings", [text]) for text in texts])`.

    Every `Call` was checked when it was made: a wrong one keeps all from being sent. Raises as `submit` does, and
    SubmittedInPart where Redis went away, or realtime work became impossible, between the first and the last.
    """
    ready = list(calls)
    for call in ready:
        if not isinstance(call, Call):
            raise InvalidTask("calls", call, 'Call(…) for each, made as a submit: Call("embeddings", ["a text"])')
    if (twice := len(ready) - len({call.id for call in ready})) > 0:
        raise InvalidTask("calls", len(ready), f"each once: {twice} of these ids come again")
    for call in ready:
        call.check_open()
    jobs: list[Job] = []
    for call in ready:
        try:
            jobs.append(call.send())
        except Exception as exc:
            if not jobs:
                raise
            said = f"{len(jobs)} of {len(ready)} tasks were sent, then: {exc}"
            unsure = None if isinstance(exc, ServiceUnavailable) else call.id
            raise SubmittedInPart(said, [job.id for job in jobs], unsure) from exc
    return jobs


class Call:
    """A task with its arguments and options, checked, not sent yet. Made as `submit` is called; it raises the same."""

    __slots__ = ("_args", "_kwargs", "_name", "_options", "_task", "_when", "id")

    def __init__(
        self,
        task: str | celery.Task,
        /,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[Options],
    ) -> None:
        self._name, self._task = _found(task)
        self._args, self._kwargs = args, _named(kwargs)
        given = check_options(options)
        #: The id that the task will have.
        self.id: str = given.pop("task_id", None) or str(uuid.uuid4())
        if self._task is not None:
            check_call(self._task, args, self._kwargs)
        if isinstance(self._task, GpuTask):
            given = self._task.checked(args, self._kwargs, given)
        prepared = prepare(self._name, getattr(self._task, "declared", {}), given)
        #: What decides whether it would be taken now.
        self._when = {name: prepared.get(name) for name in ("queue", "eta", "countdown")}
        app.check_json(args, self._kwargs)
        self._options = given

    def __repr__(self) -> str:
        return f"<Call {self._name} {self.id}>"

    def send(self) -> Job:
        """Send it."""
        options = {**self._options, "task_id": self.id}
        if self._task is None:
            sent: AsyncResult = app.send_task(self._name, self._args, self._kwargs, **options)
        else:
            sent = self._task.apply_async(self._args, self._kwargs, **options)
        return Job(sent)

    def check_open(self) -> None:
        """Would it be taken now? Raises BrokerUnavailable, ServiceUnavailable."""
        if not app.conf.task_always_eager:
            app.check_open(self._when)


def _named(kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    if kwargs is not None and not (isinstance(kwargs, Mapping) and all(isinstance(name, str) for name in kwargs)):
        raise InvalidTask("kwargs", kwargs, "the task's keyword arguments by name, {'encoding': 'base64'}")
    return dict(kwargs or {})


def _found(task: Any) -> tuple[str, Any]:
    """Name and task; None for one that is not known here, and goes by its name."""
    name = task if isinstance(task, str) else getattr(task, "name", None)
    if not isinstance(name, str) or not name or not isinstance(task, str | celery.Task):
        raise InvalidTask("task", task, "a task's name, or a task made with shared_task")
    known = app.tasks.get(name)
    if known is None and isinstance(task, str):
        _load_included()
        known = app.tasks.get(name)
    if known is not None and not name.startswith("celery."):
        return name, known
    if not isinstance(task, str):
        raise InvalidTask("task", name, "a task of this mesh: make it with shared_task, or @gpu_mesh.app.task")
    if "." in name and not name.startswith("celery."):
        _refuse_misspelt(name)
        return name, None
    return name, known_task(app, name)  # which says what there is


def _refuse_misspelt(name: str) -> None:
    """Where other tasks of its module are known here, one that is not does not exist."""
    module = name.rpartition(".")[0]
    if others := [known for known in app.tasks if known.rpartition(".")[0] == module]:
        near = difflib.get_close_matches(name, others, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(others))}"
        raise UnknownTaskType("task", name, f"no task of {module}; {hint}")


@cache
def _load_included() -> None:
    """The application's modules, GPU_MESH_INCLUDE, once: where they are not here, their tasks go by name."""
    if not settings().include:
        return
    try:
        app.loader.import_default_modules()
    except ModuleNotFoundError as exc:
        logger.warning("%s: %s; tasks of it are sent by name, unchecked", env_name("include"), exc)
    except Exception as exc:  # whatever an application's module raises
        raise InvalidSetting(env_name("include"), ",".join(settings().include), f"cannot be loaded: {exc}") from exc
