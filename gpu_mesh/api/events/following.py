"""What a task says, as events: `piece`, `restart`, `progress`, and at the end `done` or `error`.

An event's id says how far the client is (services/reading): whoever comes back with it goes on there, with whichever
API. What waits holds one connection to Redis and no thread; no text is kept for a client that reads slowly.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from celery import states

from gpu_mesh.api.backend import Backend
from gpu_mesh.api.events.sse import IDLE, encode
from gpu_mesh.errors import BrokerUnavailable, StreamIncomplete
from gpu_mesh.services.following import check_whole
from gpu_mesh.services.outcomes import Outcome, outcomes, unrecorded
from gpu_mesh.services.patience import AWAY_S, RETRY_S
from gpu_mesh.services.reading import Piece, Position, Reading
from gpu_mesh.store import streams
from gpu_mesh.store.client import mapped_errors

__all__ = ["END", "TaskStream", "Watch"]

#: The id of the last event: whoever comes back with it has all.
END = "end"
#: How often all followed tasks' states are read, s; how often it is looked for those that ended without a result, s.
LOOK_EVERY_S, UNRECORDED_EVERY_S = 1.0, 15.0


class Watch:
    """How the tasks stand that somebody follows: one reading for all of them, while there are any."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._followed: dict[str, int] = {}
        self._known: dict[str, Outcome] = {}
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="states")

    @contextmanager
    def following(self, task_id: str) -> Iterator[None]:
        """Have the task's state read from now."""
        self._followed[task_id] = self._followed.get(task_id, 0) + 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look())
        try:
            yield
        finally:
            self._followed[task_id] -= 1
            if not self._followed[task_id]:
                del self._followed[task_id]
                self._known.pop(task_id, None)

    def known(self, task_id: str) -> Outcome:
        """As it was read last."""
        return self._known.get(task_id, Outcome())

    async def now(self, task_id: str) -> Outcome:
        """As it is now. Raises BrokerUnavailable."""
        self._known |= await self._read([task_id])
        return self.known(task_id)

    def close(self) -> None:
        """Read nothing more."""
        if self._task is not None:
            self._task.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _look(self) -> None:
        last = time.monotonic()
        while self._followed:
            try:
                found = await self._read(list(self._followed))
                if time.monotonic() - last > UNRECORDED_EVERY_S:
                    last = time.monotonic()
                    found |= await self._unrecorded([one for one in self._followed if one not in found])
                self._known |= {one: outcome for one, outcome in found.items() if one in self._followed}
            except BrokerUnavailable:  # each reader meets it by itself
                pass
            await asyncio.sleep(LOOK_EVERY_S)

    async def _read(self, ids: list[str]) -> dict[str, Outcome]:
        told = self._backend
        return await asyncio.get_running_loop().run_in_executor(self._thread, outcomes, told.app, told.settings, ids)

    async def _unrecorded(self, ids: list[str]) -> dict[str, Outcome]:
        told = self._backend
        found = await asyncio.get_running_loop().run_in_executor(
            self._thread, unrecorded, told.client, told.settings, ids
        )
        return {one: Outcome(state) for one, state in found.items()}


class TaskStream:
    """One client's reading of one task. `client` is redis-py's for asyncio."""

    def __init__(self, backend: Backend, client: Any, watch: Watch, task_id: str, position: Position | None) -> None:
        self._settings, self._client, self._watch, self._id = backend.settings, client, watch, task_id
        self._reading = Reading(position)
        self._progress: tuple[object, object] | None = None
        #: Since when Redis is away.
        self._away: float | None = None

    async def events(self) -> AsyncGenerator[bytes]:
        """All there is to say, to the task's end."""
        with self._watch.following(self._id):
            wait_s = 0.0
            while True:
                entries = None
                try:
                    entries = await self._entries(wait_s)
                    for told in self._pieces(entries):
                        yield told
                    # At first too: of a task that has ended nothing will be heard.
                    if self._reading.ended is not None or not wait_s:
                        await self._watch.now(self._id)
                    self._away = None
                    if (outcome := self._outcome(bool(entries))) is not None:
                        async for told in self._last(outcome):
                            yield told
                        return
                except BrokerUnavailable as exc:
                    self._away = self._away or time.monotonic()
                    if time.monotonic() - self._away > AWAY_S:
                        yield encode("error", {**_error(exc), "state": None})
                        return
                    await asyncio.sleep(RETRY_S)
                wait_s = LOOK_EVERY_S
                for told in self._progressed():
                    yield told
                if not entries:
                    yield IDLE

    async def _entries(self, wait_s: float) -> list[streams.Entry]:
        with mapped_errors(self._settings):
            return await streams.read_async(self._client, self._id, self._reading.position.after, wait_s=wait_s)

    def _pieces(self, entries: list[streams.Entry]) -> Iterator[bytes]:
        for entry in entries:
            for piece in self._reading.take(entry):
                yield from self._told(piece)

    def _told(self, piece: Piece) -> Iterator[bytes]:
        position = self._reading.position
        if piece.restart:
            # What follows comes under the same id: who has the one without the other reads both again.
            at = None if piece.text or piece.thinking else str(position)
            yield encode("restart", {}, at)
        if piece.text or piece.thinking:
            yield encode("piece", {"text": piece.text, "thinking": piece.thinking}, str(position))

    def _outcome(self, is_busy: bool) -> Outcome | None:
        """How the task ended: by its result, which is stored before the stream ends; by the stream, where none is
        kept. None: it goes on."""
        known = self._watch.known(self._id)
        if self._reading.ended is not None:
            return known if known.is_over else Outcome(self._reading.ended)
        return known if known.is_over and not is_busy else None

    async def _last(self, outcome: Outcome) -> AsyncGenerator[bytes]:
        """The rest of the text, and the end."""
        while entries := await self._entries(0.0):
            for told in self._pieces(entries):
                yield told
        error = outcome.value
        if error is None and self._reading.ended is not None:
            try:
                check_whole(self._id, self._reading)
            except StreamIncomplete as exc:
                error = exc
        if outcome.state != states.SUCCESS or isinstance(error, StreamIncomplete):
            yield encode("error", {**_error(error), "state": outcome.state}, END)
            return
        for piece in self._reading.rest(outcome.value):
            for told in self._told(piece):
                yield told
        yield encode("done", {"state": outcome.state, "result": outcome.value}, END)

    def _progressed(self) -> Iterator[bytes]:
        known = self._watch.known(self._id)
        if known.is_over or not isinstance(known.value, Mapping) or not {"done", "total"} <= known.value.keys():
            return
        now = known.value["done"], known.value["total"]
        if now != self._progress:
            self._progress = now
            yield encode("progress", {"done": now[0], "total": now[1]})


def _error(error: object) -> dict[str, str | None]:
    """Of what a task raised; None where nothing of it is kept."""
    if error is None:
        return {"type": None, "message": "it keeps no result, nor its error"}
    return {"type": type(error).__name__, "message": str(error)}
