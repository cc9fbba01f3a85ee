"""Names of everything the mesh keeps in Redis beside Celery's own keys. Full names: nothing adds a prefix later."""

from __future__ import annotations

import re

__all__ = [
    "DEAD",
    "DELAYED",
    "FINISHED",
    "LATER",
    "NODES",
    "PREFIX",
    "RUNNING",
    "claims",
    "progress",
    "queue_of",
    "ranking",
    "wake",
]

PREFIX = "gpumesh:"
#: hash: node name → registration as JSON.
NODES = f"{PREFIX}nodes"
#: hash: id of a task that runs → the task, as JSON.
RUNNING = f"{PREFIX}running"
#: list: the last finished tasks as JSON, newest first, capped.
FINISHED = f"{PREFIX}finished"
#: zset: delivery tag of a message whose time has not come → when it is due; and hash: tag → its list and envelope.
DELAYED, LATER = f"{PREFIX}delayed", f"{PREFIX}later"
#: list: messages that cannot be run, newest first: JSON, newline, envelope.
DEAD = f"{PREFIX}dead"


def progress(task_id: str) -> str:
    """hash: part's task id → how much it did."""
    return f"{PREFIX}progress:{task_id}"


def claims(worker: str) -> str:
    """hash: delivery tag → claim, see claim.lua."""
    return f"{PREFIX}claims:{worker}"


def wake(worker: str) -> str:
    """list: what an idle worker waits on."""
    return f"{PREFIX}wake:{worker}"


def ranking(needs: str, mode: str) -> str:
    """zset: worker → node score for the needs of that number, by mode of placement."""
    return f"{PREFIX}fit:{needs}:{mode}"


def queue_of(name: str) -> str:
    """The queue of a Redis list: `ai-batch:3` is one of `ai-batch`."""
    return re.sub(r":[369]$", "", name)
