"""Dead letters, as the interfaces see them: listed, looked at, tried again, dropped."""

from __future__ import annotations

from gpu_mesh.errors import InvalidTask
from gpu_mesh.settings import Settings
from gpu_mesh.store import claims, dead
from gpu_mesh.store.client import connect, mapped_errors
from gpu_mesh.store.dead import DeadLetter

__all__ = ["ALL", "drop", "every", "find", "retry"]

#: Stands for every dead letter where an id is asked for.
ALL = "all"


def every(settings: Settings) -> list[DeadLetter]:
    """All of them, newest first. Raises BrokerUnavailable."""
    with mapped_errors(settings), connect(settings) as client:
        return list(dead.letters(client))


def find(settings: Settings, which: str) -> list[DeadLetter]:
    """Those of task id `which`, or `all`. Raises InvalidTask when there is none of that id."""
    found = every(settings)
    if which == ALL:
        return found
    found = [letter for letter in found if letter.id == which]
    if not found:
        raise InvalidTask("task_id", which, "no dead letter has this id; `gpu-mesh dead list` shows those there are")
    return found


def retry(settings: Settings, which: str) -> int:
    """Put them back into their queues; how many. Raises InvalidTask, BrokerUnavailable."""
    letters = find(settings, which)
    with mapped_errors(settings), connect(settings) as client:
        back = [letter.queue for letter in letters if dead.retry(client, letter)]
        claims.wake(client, back)
    return len(back)


def drop(settings: Settings, which: str) -> int:
    """Forget them; how many. Raises InvalidTask, BrokerUnavailable."""
    letters = find(settings, which)
    with mapped_errors(settings), connect(settings) as client:
        return sum(dead.drop(client, letter) for letter in letters)
