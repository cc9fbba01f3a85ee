"""Names of everything the mesh keeps in Redis beside Celery's own keys. Full names: nothing adds a prefix later."""

from __future__ import annotations

__all__ = ["FINISHED", "NODES", "PREFIX", "RUNNING", "progress"]

PREFIX = "gpumesh:"
#: hash: node name → registration as JSON.
NODES = f"{PREFIX}nodes"
#: hash: id of a task that runs → the task, as JSON.
RUNNING = f"{PREFIX}running"
#: list: the last finished tasks as JSON, newest first, capped.
FINISHED = f"{PREFIX}finished"


def progress(task_id: str) -> str:
    """hash: part's task id → how much it did."""
    return f"{PREFIX}progress:{task_id}"
