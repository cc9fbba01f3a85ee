"""Where a delayed task is. The store has them by delivery tag: a process that is asked often keeps whose is whose."""

from __future__ import annotations

import threading

import redis

from gpu_mesh.store import keys
from gpu_mesh.store.queues import Waiting, headers_of
from gpu_mesh.store.replies import text

__all__ = ["Delays"]

#: Messages read in one go.
PAGE = 200


class Delays:
    """Whose tag is whose. May be used by many threads at once."""

    def __init__(self) -> None:
        #: Delivery tag → task id, of what is delayed.
        self._ids: dict[str, str] = {}
        self._lock = threading.Lock()

    def find(self, client: redis.Redis, task_id: str) -> tuple[Waiting, float] | None:
        """Its message, and when it is due, s since the epoch; None where it is not delayed."""
        with self._lock:
            tags = list(map(text, client.zrange(keys.DELAYED, 0, -1)))
            known = {tag: self._ids[tag] for tag in tags if tag in self._ids}
            new = [tag for tag in tags if tag not in known]
            for start in range(0, len(new), PAGE):
                page = new[start : start + PAGE]
                for tag, kept in zip(page, client.hmget(keys.LATER, page), strict=True):
                    if kept is not None:
                        known[tag] = str(headers_of(text(kept).partition("\n")[2]).get("id", ""))
            self._ids = known
        for tag, its in known.items():
            if its == task_id and (found := _message(client, tag)) is not None:
                return found
        return None


def _message(client: redis.Redis, tag: str) -> tuple[Waiting, float] | None:
    pipe = client.pipeline(transaction=False)  # a transaction would be refused by a Redis that is full
    pipe.zscore(keys.DELAYED, tag)
    pipe.hget(keys.LATER, tag)
    due, kept = pipe.execute()
    if due is None or kept is None:
        return None
    name, _, raw = text(kept).partition("\n")
    return Waiting(keys.queue_of(name), 0, raw, headers_of(raw), name), float(due)
