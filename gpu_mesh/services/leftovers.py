"""Taking over what stock Celery workers left behind (DESIGN §4): messages they took and never acknowledged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import celery

from gpu_mesh.services.lookup import known_queues
from gpu_mesh.settings import Settings
from gpu_mesh.store import claims, leftovers
from gpu_mesh.store.client import connect, mapped_errors
from gpu_mesh.store.leftovers import Leftover

__all__ = ["OLD_S", "Found", "look", "put_back", "summary"]

#: Age from which stock Celery itself gives a message to another worker, s: its default visibility timeout.
OLD_S = 3600.0
#: How long workers may take to say what they hold, s.
ANSWER_S = 1.0
#: No message is that old, s.
NEVER_S = 1e9
#: Task ids in one question.
ASKED_AT_ONCE = 500


@dataclass(slots=True)
class Found:
    """What is there: to be put back, held by a worker that answers, too young, and of no queue of the mesh."""

    ready: list[Leftover] = field(default_factory=list)
    held: int = 0
    young: int = 0
    foreign: int = 0

    def __str__(self) -> str:
        parts = [
            (len(self.ready), "can be put back"),
            (self.held, "held by a worker that answers"),
            (self.young, "taken too lately"),
            (self.foreign, "of no queue of the mesh"),
        ]
        return ", ".join(f"{count} {words}" for count, words in parts if count) or "none"


def summary(settings: Settings) -> tuple[int, float | None]:
    """How many messages stock workers hold or left, and the age of the oldest, s. Raises BrokerUnavailable."""
    with mapped_errors(settings), connect(settings) as client:
        return leftovers.summary(client)


def look(app: celery.Celery, settings: Settings, *, older_than_s: float = OLD_S, take_all: bool = False) -> Found:
    """Which of them may be put back: of a queue of ours, older than `older_than_s`, and no worker that answers has it.

    A worker that is busy in its only process does not answer: its age alone protects what it holds, as among stock
    workers. With `take_all` every message of our queues, whatever its age and whoever holds it: for when the stock
    workers are known to be gone. Raises BrokerUnavailable.
    """
    found, known = Found(), known_queues(settings)
    with mapped_errors(settings), connect(settings) as client:
        every = list(leftovers.leftovers(client))
    held = set() if take_all else _held(app, [item.task_id for item in every if item.queue in known and item.task_id])
    for item in every:
        if item.queue not in known:
            found.foreign += 1
        elif item.task_id in held:
            found.held += 1
        elif not take_all and (item.age_s is None or item.age_s < older_than_s):
            found.young += 1
        else:
            found.ready.append(item)
    # Each is put in front of the one before it: the oldest must come last.
    found.ready.sort(key=lambda item: item.taken_at or 0.0, reverse=True)
    return found


def put_back(settings: Settings, found: Found) -> int:
    """Put them back into their lists, to be taken next, the oldest first; how many. Raises BrokerUnavailable."""
    with mapped_errors(settings), connect(settings) as client:
        back = [str(item.queue) for item in found.ready if leftovers.put_back(client, item)]
        claims.wake(client, back)
    return len(back)


def _held(app: celery.Celery, task_ids: Sequence[str]) -> set[str]:
    """Those of the tasks that workers say they have."""
    held: set[str] = set()
    # Whoever waits for an answer puts back what is older than this, kombu's way: not before the operator said yes.
    with app.connection_for_write(transport_options={"visibility_timeout": NEVER_S}) as connection:
        for start in range(0, len(task_ids), ASKED_AT_ONCE):
            asked = task_ids[start : start + ASKED_AT_ONCE]
            inspect = app.control.inspect(timeout=ANSWER_S, connection=connection)
            for answer in (inspect.query_task(*asked) or {}).values():
                held |= set(answer) if isinstance(answer, dict) else set()
    return held
