"""Hearing that tasks ended: one thread and one connection for everybody who waits in a process.

A result is published on a channel of its key's name (Celery's Redis backend). What is not heard so, while Redis was
away say, is found by a look at all that is waited for, each LOOK_S. What leaves no result (dead letters, and tasks sent
with `ignore_result`) shows in the mesh's own lists.
"""

from __future__ import annotations

import json
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import redis

from gpu_mesh.store import keys
from gpu_mesh.store.replies import text
from gpu_mesh.store.scripts import script

__all__ = ["Ends"]

logger = logging.getLogger(__name__)

#: Between two looks at all that is waited for, s.
LOOK_S = 1.0
#: Keys read in one go.
AT_ONCE = 500
#: Entries of the finished tasks that are read in one go, and in all where many ended between two looks.
PAGE, PAGES = 100, 20
#: Dead letters whose heads one look reads.
LETTERS = 1000

#: Called in the watcher's thread when a task may have ended.
Told = Callable[[], object]


class Ends(threading.Thread):
    """Tells of tasks that ended, until `close`. Its methods may be called from any thread."""

    def __init__(
        self,
        results: Callable[[], redis.Redis],
        broker: redis.Redis,
        key_of: Callable[[str], str],
        is_end: Callable[[Any], bool],
    ) -> None:
        """`results`: gives the result backend's client; `key_of`: a task's key there; `is_end`: whether what is kept
        there is an end."""
        super().__init__(name="task-ends", daemon=True)
        self._results, self._broker, self._key_of, self._is_end = results, broker, key_of, is_end
        #: Task id → who waits for it.
        self._waits: dict[str, set[Told]] = {}
        self._keys: dict[str, str] = {}
        self._lock = threading.Lock()
        self._is_closing = False
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        #: What the connection hears of.
        self._heard: set[str] = set()
        self._pubsub: Any = None
        self._newest: str | None = None
        self._looked_at = 0.0

    def watch(self, task_id: str, told: Told) -> None:
        """Have `told` called each time the task may have ended, until `forget`."""
        with self._lock:
            self._waits.setdefault(task_id, set()).add(told)
            self._keys[self._key_of(task_id)] = task_id
        self._stir()

    def forget(self, task_id: str, told: Told) -> None:
        """Call it no more."""
        with self._lock:
            waits = self._waits.get(task_id, set())
            waits.discard(told)
            if waits or task_id not in self._waits:
                return
            del self._waits[task_id]
            del self._keys[self._key_of(task_id)]
        self._stir()

    @property
    def count(self) -> int:
        """Tasks that somebody waits for."""
        with self._lock:
            return len(self._waits)

    def close(self) -> None:
        """End, at once."""
        self._is_closing = True
        self._stir()
        self.join(LOOK_S * 5)
        self._wake.close()
        self._woken.close()

    def run(self) -> None:
        while not self._is_closing:
            try:
                self._listen()
            except (redis.RedisError, OSError) as exc:
                logger.warning("waits go on without Redis: %s", exc, extra={"action": "await"})
                self._drop()
                self._pause(LOOK_S)
            except Exception:
                logger.exception("waits could not be looked after", extra={"action": "await"})
                self._drop()
                self._pause(LOOK_S)
        self._drop()

    def _listen(self) -> None:
        """Until something is to be done: hear, and look each LOOK_S while somebody waits."""
        self._agree()
        while (heard := self._pubsub and self._pubsub.get_message(timeout=0)) is not None and self._pubsub:
            self._hear(heard)
        if self._is_closing:
            return
        if not self._heard:
            self._drop()
            self._newest = None
            self._pause(None)
            return
        left = self._looked_at + LOOK_S - time.monotonic()
        if left <= 0:
            self._look(list(self._heard))
            self._look_at_lists()
            self._looked_at = time.monotonic()
            left = LOOK_S
        self._pause(left)

    def _agree(self) -> None:
        """Hear of what is waited for, and of nothing else."""
        with self._lock:
            wanted = set(self._keys)
        if wanted == self._heard:
            return
        if self._pubsub is None:
            self._pubsub = self._results().pubsub()
        if new := sorted(wanted - self._heard):
            self._pubsub.subscribe(*new)
        if gone := sorted(self._heard - wanted):
            self._pubsub.unsubscribe(*gone)
        self._heard = wanted

    def _hear(self, heard: dict[str, Any]) -> None:
        key = text(heard["channel"])
        if heard["type"] == "message":
            if self._ends(heard["data"]):
                self._tell(key)
        elif heard["type"] == "subscribe":
            self._look([key])  # it may have ended before

    def _look(self, wanted: list[str]) -> None:
        for start in range(0, len(wanted), AT_ONCE):
            page = wanted[start : start + AT_ONCE]
            for key, kept in zip(page, self._results().mget(page), strict=True):
                if kept is not None and self._ends(kept):
                    self._tell(key)

    def _look_at_lists(self) -> None:
        """What ended since the last look and is kept in the mesh's own lists."""
        newest, found = None, set()
        for page in range(PAGES):
            entries = list(map(text, self._broker.lrange(keys.FINISHED, page * PAGE, (page + 1) * PAGE - 1)))
            newest = newest or (entries[0] if entries else None)
            met = self._newest in entries
            found |= {_id(entry) for entry in (entries[: entries.index(str(self._newest))] if met else entries)}
            if met or len(entries) < PAGE:
                break
        self._newest = newest
        _, *heads = script(self._broker, "buried")(args=[LOOK_S * 5, LETTERS])
        found |= {_id(text(head)) for head in heads}
        with self._lock:
            known = [self._key_of(task_id) for task_id in found if task_id in self._waits]
        for key in known:
            self._tell(key)

    def _ends(self, kept: Any) -> bool:
        try:
            return self._is_end(kept)
        except (ValueError, KeyError, TypeError):  # whatever is kept there: whoever waits looks himself
            return True

    def _tell(self, key: str) -> None:
        with self._lock:
            calls = list(self._waits.get(self._keys.get(key, ""), ()))
        for told in calls:
            with suppress(RuntimeError):  # its loop is closed
                told()

    def _drop(self) -> None:
        pubsub, self._pubsub, self._heard = self._pubsub, None, set()
        if pubsub is not None:
            with suppress(redis.RedisError, OSError):
                pubsub.close()

    def _pause(self, seconds: float | None) -> None:
        """Until somebody stirs, or Redis says something."""
        connection = self._pubsub and self._pubsub.connection
        heard = getattr(connection, "_sock", None)
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            if heard is not None:
                selector.register(heard, selectors.EVENT_READ)
            selector.select(seconds)
        with suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass

    def _stir(self) -> None:
        with suppress(BlockingIOError):
            self._wake.send(b"1")


def _id(entry: str) -> str:
    try:
        found = json.loads(entry)
    except ValueError:
        return ""
    return str(found.get("id", "")) if isinstance(found, dict) else ""
