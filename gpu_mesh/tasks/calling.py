"""Before a task is sent: is it one of ours, and does it take these arguments? Shared by the command line, the REST API
and `submit`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

import celery

from gpu_mesh.domain.queues import OWN_TASKS, TYPE_QUEUES
from gpu_mesh.errors import InvalidTask, UnknownTaskType

__all__ = ["check_call", "known_task", "known_tasks"]

#: Beginnings of the names of tasks that nobody sends: Celery's own, and the mesh's periodic work.
_NOT_SENT = ("celery.", OWN_TASKS)


def known_tasks(app: celery.Celery) -> list[str]:
    """Names of what may be sent: the built-in types first, then the tasks of the modules in GPU_MESH_INCLUDE."""
    app.loader.import_default_modules()
    own = [name for name in app.tasks if not name.startswith(_NOT_SENT)]
    return sorted(own, key=lambda name: (name not in TYPE_QUEUES, name))


def known_task(app: celery.Celery, name: str, *, field: str = "task") -> Any:
    """The task of that name. Raises UnknownTaskType for `field`, which names what there is."""
    names = known_tasks(app)
    if name not in names:
        built_in = ", ".join(known for known in names if known in TYPE_QUEUES)
        raise UnknownTaskType(field, name, f"one of {built_in}, or a task of a module in GPU_MESH_INCLUDE")
    return app.tasks[name]


def check_call(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], *, field: str = "args") -> None:
    """See that the task takes these arguments, as Celery does on sending. Raises InvalidTask for `field`."""
    if not task.typing:
        return
    try:
        task.__header__(*args, **kwargs)
    except TypeError as exc:
        wanted = inspect.signature(task.__header__)
        given = json.dumps([args, kwargs], default=repr)
        raise InvalidTask(field, given, f"what {task.name}{wanted} takes ({exc})") from None
