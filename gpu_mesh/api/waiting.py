"""Requests that wait for a task's end: they hold no thread, and end when their client hangs up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from celery import states
from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool

from gpu_mesh.api.backend import Backend
from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.services.task_state import TaskState
from gpu_mesh.services.tracking import Tracker
from gpu_mesh.settings import Settings
from gpu_mesh.store.ends import Ends

__all__ = ["Waiter", "Waiting", "ended_within", "stop", "waiter"]

#: Between two tries to ask a Redis that is away, s.
RETRY_S = 1.0


class Waiter:
    """Who looks for tasks, and who hears that they ended."""

    def __init__(self, tracker: Tracker, ends: Ends) -> None:
        self.tracker, self.ends = tracker, ends
        #: Whether the server stops: then nobody waits any more.
        self.stopping = asyncio.Event()


@contextmanager
def waiter(backend: Backend) -> Iterator[Waiter]:
    """One for this process, until the end of the block."""
    results = backend.app.backend

    def is_end(kept: Any) -> bool:
        return results.decode_result(kept)["status"] in states.READY_STATES

    def key_of(task_id: str) -> str:
        key = results.get_key_for_task(task_id)
        return key.decode() if isinstance(key, bytes) else str(key)

    ends = Ends(lambda: results.client, backend.client, key_of, is_end)
    ends.start()
    try:
        yield Waiter(Tracker(backend.app, backend.settings, backend.client), ends)
    finally:
        ends.close()


def stop(api: Any) -> None:
    """Have all who wait answered now, by an API that stops; on the event loop."""
    found = getattr(getattr(api, "state", None), "waiter", None)
    if found is not None:
        found.stopping.set()


def _waiter(request: Request) -> Waiter:
    found: Waiter = request.app.state.waiter
    return found


#: A parameter of this type gets it.
Waiting = Annotated[Waiter, Depends(_waiter)]


async def ended_within(
    waiting: Waiter, request: Request, task_id: str, settings: Settings, wait_s: float
) -> TaskState | None:
    """Wait until the task ends, its time is over, the client hangs up, or the server stops. A task that is not known is
    not waited for.

    Through a Redis that is away for a moment it waits on.
    """
    deadline = time.monotonic() + min(wait_s, settings.api_max_wait_s)
    loop, told = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        loop.call_soon_threadsafe(told.set)

    gone, stopped = asyncio.ensure_future(_hung_up(request)), asyncio.ensure_future(waiting.stopping.wait())
    waiting.ends.watch(task_id, tell)
    try:
        while True:
            told.clear()
            found, is_away = await _look(waiting, task_id)
            left = deadline - time.monotonic()
            if left <= 0 or gone.done() or stopped.done() or (not is_away and (found is None or found.has_ended)):
                return found
            heard = asyncio.ensure_future(told.wait())
            left = min(left, RETRY_S) if is_away else left
            try:
                await asyncio.wait({heard, gone, stopped}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            finally:
                heard.cancel()
    finally:
        waiting.ends.forget(task_id, tell)
        gone.cancel()
        stopped.cancel()


async def _look(waiting: Waiter, task_id: str) -> tuple[TaskState | None, bool]:
    """What is known of it, and whether Redis is away."""
    try:
        return await run_in_threadpool(waiting.tracker.find, task_id), False
    except BrokerUnavailable:
        return None, True


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
