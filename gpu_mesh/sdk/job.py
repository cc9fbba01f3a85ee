"""A task that was sent: its state, its end, what it says, and taking it back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from celery import states
from celery.exceptions import TaskRevokedError
from celery.exceptions import TimeoutError as CeleryTimeout
from celery.result import AsyncResult, EagerResult, assert_will_not_block

from gpu_mesh.celery import app
from gpu_mesh.errors import InvalidTask, JobCancelled
from gpu_mesh.sdk.waiting import Look, read
from gpu_mesh.services import lookup, tracking
from gpu_mesh.services.following import Piece, follow
from gpu_mesh.services.lookup import Cancelled
from gpu_mesh.services.task_state import TaskState, progress_of
from gpu_mesh.settings import settings

__all__ = ["Job"]

_END = object()


class Job:
    """A task by its id. It keeps nothing of the task: each question is asked of the mesh, from any thread or process.

    Every method raises BrokerUnavailable where Redis is away.
    """

    __slots__ = ("_sent",)

    def __init__(self, task: str | AsyncResult | EagerResult) -> None:
        """Of a task's id, or of what `delay` or `apply_async` gave. Raises InvalidTask."""
        if not isinstance(task, (str, AsyncResult)) or not task:
            raise InvalidTask("task_id", task, "a task's id, or what `delay` or `apply_async` gave")
        self._sent = app.AsyncResult(task) if isinstance(task, str) else task

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def id(self) -> str:
        """The task's id, by which every process finds it."""
        return str(self._sent.id)

    @property
    def state(self) -> str:
        """Celery's word: PENDING (it waits, or nobody knows it), STARTED, PROGRESS, RETRY, SUCCESS, FAILURE, REVOKED.

        `info().state` tells more of one that waits, and costs more.
        """
        return str(read(settings(), self._sent)["status"])

    @property
    def done(self) -> bool:
        """Whether it has ended, in whichever way."""
        return self.state in states.READY_STATES

    @property
    def progress(self) -> tuple[float, float] | None:
        """How much is done of how much (`report_progress`); None where it says nothing now."""
        return progress_of(read(settings(), self._sent)["result"])

    def info(self) -> TaskState:
        """All that is known of it: place in its queue, why it waits, worker, times. Raises InvalidTask when nothing is.

        It asks many things: not for loops.
        """
        return tracking.find(app, settings(), self.id)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for its end, at most `timeout` s; whether it has ended. Raises as `result` where no end is to come."""
        try:
            self._end(timeout)
        except TimeoutError:
            return False
        return True

    def result(self, timeout: float | None = None) -> Any:
        """What it returned, once it has ended.

        Raises what it raised (errors of a class that is not known here come as one of the same name), JobCancelled,
        DeadLettered, TimeoutError after `timeout` s, InvalidTask where no such task is known or it keeps no result.
        """
        return _outcome(self.id, self._end(timeout))

    async def aresult(self, timeout: float | None = None) -> Any:
        """As `result`, without holding up the event loop or a thread while it waits; `await job` is the same."""
        look = self._look(timeout)
        while (found := await asyncio.to_thread(look.look)) is None:
            await asyncio.sleep(look.pause_s)
        return _outcome(self.id, found)

    def __await__(self) -> Generator[Any, None, Any]:
        return self.aresult().__await__()

    def stream(self, timeout: float | None = None) -> Generator[Piece, None, None]:
        """What it says while it runs, piece by piece, to its end; a task that says nothing gives no pieces.

        The texts since the last piece with `restart`, put together, are its result's text. Raises as `result` does.
        """
        return self._pieces(timeout, lambda: False)

    async def astream(self, timeout: float | None = None) -> AsyncIterator[Piece]:
        """As `stream`, without holding up the event loop: `async for piece in job.astream()`. It holds one thread."""
        given_up = threading.Event()
        loop, pieces = asyncio.get_running_loop(), self._pieces(timeout, given_up.is_set)
        thread = ThreadPoolExecutor(1, "gpu-mesh-stream")
        try:
            while isinstance(piece := await loop.run_in_executor(thread, next, pieces, _END), Piece):
                yield piece
        finally:
            given_up.set()
            # In the thread, after what it waits for: a generator that runs cannot be closed.
            thread.submit(pieces.close)
            thread.shutdown(wait=False)

    def _pieces(self, timeout: float | None, given_up: Callable[[], bool]) -> Generator[Piece, None, None]:
        with _translated(self.id):
            pieces = follow(app, settings(), self._sent, timeout_s=timeout, given_up=given_up)
        while True:
            with _translated(self.id):
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    def cancel(self) -> Cancelled:
        """Take it back, waiting or running: no worker runs it any more. Says what it met."""
        return lookup.cancel(app, settings(), self.id)

    def _end(self, timeout: float | None) -> Mapping[str, Any]:
        look = self._look(timeout)
        while (found := look.look()) is None:
            time.sleep(look.pause_s)
        return found

    def _look(self, timeout: float | None) -> Look:
        assert_will_not_block()  # in a task: its worker would wait for itself
        if self._sent.ignored:
            raise InvalidTask("task", self.id, "keeps no result (ignore_result): there is nothing to wait for")
        return Look(settings(), self._sent, timeout)


@contextmanager
def _translated(task_id: str) -> Iterator[None]:
    """Celery's errors of an end as `result` raises them."""
    try:
        yield
    except TaskRevokedError as exc:
        raise _cancelled(task_id, exc) from exc
    except CeleryTimeout as exc:
        raise TimeoutError(str(exc)) from exc


def _outcome(task_id: str, found: Mapping[str, Any]) -> Any:
    value = found["result"]
    if found["status"] == states.SUCCESS:
        return value
    if found["status"] == states.REVOKED:
        raise _cancelled(task_id, value)
    raise value if isinstance(value, BaseException) else RuntimeError(f"{task_id} failed: {value}")


def _cancelled(task_id: str, why: object) -> JobCancelled:
    return JobCancelled(f"{task_id} ended without a result: {why}")
