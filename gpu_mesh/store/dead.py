"""Dead letters: messages that cannot be run, kept with the reason until somebody decides."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import redis

from gpu_mesh.store import keys
from gpu_mesh.store.replies import text as as_text
from gpu_mesh.store.scripts import script

__all__ = ["DeadLetter", "drop", "find", "letters", "retry"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One of them. `at` is when it was put away, s by Redis's clock; `text` is the entry as it is kept."""

    id: str
    queue: str
    why: str
    at: float
    worker: str | None
    deliveries: int
    envelope: str
    name: str
    text: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return {name: value for name, value in asdict(self).items() if name != "text"}


def letters(client: redis.Redis) -> Iterator[DeadLetter]:
    """All dead letters, newest first. One without a task id goes by `malformed-` and its place from the oldest."""
    texts = [str(text) for text in client.lrange(keys.DEAD, 0, -1)]
    for index, text in enumerate(texts):
        head, _, envelope = text.partition("\n")
        told = json.loads(head)
        yield DeadLetter(
            id=told.get("id") or f"malformed-{len(texts) - index}",
            queue=keys.queue_of(told["list"]),
            why=told["why"],
            at=float(told["at"]),
            worker=told.get("worker"),
            deliveries=int(told.get("deliveries") or 0),
            envelope=envelope,
            name=told["list"],
            text=text,
        )


def find(client: redis.Redis, task_id: str) -> DeadLetter | None:
    """The newest dead letter of a task, without its envelope; None where there is none."""
    head = as_text(script(client, "letter")(args=[json.dumps(task_id), task_id]))
    if not head:
        return None
    told = json.loads(head)
    return DeadLetter(
        id=task_id,
        queue=keys.queue_of(told["list"]),
        why=told["why"],
        at=float(told["at"]),
        worker=told.get("worker"),
        deliveries=int(told.get("deliveries") or 0),
        envelope="",
        name=told["list"],
        text=head,
    )


def retry(client: redis.Redis, letter: DeadLetter) -> bool:
    """Put it back into its list, its deliveries forgotten. False when it was gone."""
    return _move(client, letter, back=True)


def drop(client: redis.Redis, letter: DeadLetter) -> bool:
    """Forget it. False when it was gone."""
    return _move(client, letter, back=False)


def _move(client: redis.Redis, letter: DeadLetter, *, back: bool) -> bool:
    # Back first: a crash in between leaves it in both places, not in none.
    # No transaction where it is only dropped: a Redis that is full refuses those as a whole.
    pipe = client.pipeline(transaction=back)
    if back:
        pipe.lpush(letter.name, letter.envelope)
    pipe.lrem(keys.DEAD, 1, letter.text)
    return bool(pipe.execute()[-1])
