"""Reading what a task says while it says it: one connection, which waits in Redis; whole, whatever happens to the run
(services/reading)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import celery
from celery import states
from celery.exceptions import TimeoutError
from celery.result import AsyncResult, EagerResult, assert_will_not_block

from gpu_mesh.errors import InvalidTask, StreamIncomplete
from gpu_mesh.services.patience import AWAY_S, patiently
from gpu_mesh.services.reading import Piece, Reading
from gpu_mesh.settings import Settings
from gpu_mesh.store import streams
from gpu_mesh.store.client import check_broker, connect

__all__ = ["Piece", "check_whole", "follow"]

T = TypeVar("T")

#: How often a silent stream's reader looks at the task's state, s: a run that was killed says nothing.
CHECK_EVERY_S = 1.0


def follow(
    app: celery.Celery,
    settings: Settings,
    task: str | AsyncResult,
    *,
    timeout_s: float | None = None,
    away_s: float = AWAY_S,
    given_up: Callable[[], bool] = lambda: False,
) -> Iterator[Piece]:
    """What the task `task` (its id, or what `delay` gave) says, from its beginning to its end.

    A task that says nothing gives no pieces. Raises InvalidTask for what is no task, BrokerUnavailable at once when
    Redis is away, or later when it stays away for `away_s`; from the iterator, when the task has ended, what
    `AsyncResult.get` raises (its error, TaskRevokedError), Celery's TimeoutError after `timeout_s` in all or within
    a second where `given_up` says that nobody reads any more.
    """
    if isinstance(task, EagerResult):
        return Reading().rest(task.get())
    if isinstance(task, str) and task:
        task = app.AsyncResult(task)
    if not isinstance(task, AsyncResult):
        raise InvalidTask("task", task, "a task's id, or what `delay` or `apply_async` gave")
    assert_will_not_block()
    check_broker(settings, timeout_s=settings.submit_timeout_s)
    return _Follower(settings, task, timeout_s, away_s, given_up).pieces()


class _Follower:
    def __init__(
        self,
        settings: Settings,
        result: AsyncResult,
        timeout_s: float | None,
        away_s: float,
        given_up: Callable[[], bool],
    ) -> None:
        self._given_up = given_up
        self._settings, self._result, self._timeout_s, self._away_s = settings, result, timeout_s, away_s
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._reading = Reading()

    def pieces(self) -> Iterator[Piece]:
        with connect(self._settings) as client:

            def read(wait_s: float = 0.0) -> list[streams.Entry]:
                after = self._reading.position.after
                return self._asked(lambda: streams.read(client, self._result.id, after, wait_s=wait_s))

            entries = read()
            while True:
                for entry in entries:
                    yield from self._reading.take(entry)
                if (self._reading.ended or not entries) and self._is_over():
                    while entries := read():
                        for entry in entries:
                            yield from self._reading.take(entry)
                    yield from self._rest()
                    return
                entries = read(min(CHECK_EVERY_S, self._left_s()))

    def _is_over(self) -> bool:
        """By its result, which is stored before the stream ends; by the stream, where no result is kept."""
        return self._asked(lambda: self._result.state) in states.READY_STATES or self._reading.ended is not None

    def _rest(self) -> Iterator[Piece]:
        """What the result has beyond what was given out. Raises what the task raised."""
        if self._asked(lambda: self._result.state) in states.READY_STATES:
            yield from self._reading.rest(self._result.maybe_throw())
        else:
            check_whole(self._result.id, self._reading)

    def _left_s(self) -> float:
        if self._given_up():
            raise TimeoutError(f"{self._result.id}: nobody reads any more")
        if self._deadline is None:
            return CHECK_EVERY_S
        if (left := self._deadline - time.monotonic()) <= 0:
            raise TimeoutError(f"{self._result.id} has not ended after {self._timeout_s:g} s")
        return left

    def _asked(self, ask: Callable[[], T]) -> T:
        """The answer, also of a Redis that is away for a moment."""
        return patiently(self._settings, ask, meanwhile=self._left_s, away_s=self._away_s)


def check_whole(task_id: str, reading: Reading) -> None:
    """Of a task that ended and keeps no result. Raises StreamIncomplete where its stream was not all of it."""
    if reading.ended != states.SUCCESS:
        raise StreamIncomplete(f"{task_id} ended as {reading.ended}; it keeps no result, nor its error")
    if reading.behind:
        raise StreamIncomplete(
            f"{task_id} said more than its stream holds, and keeps no result: "
            "read it sooner, raise GPU_MESH_STREAM_MAX_MB, or send it without ignore_result"
        )
