"""Reading what a task says while it says it: one connection, which waits in Redis; whole, whatever happens to the run.

What the reader was too slow for, or the stream let go, comes from the result: the texts of all pieces since the last
`restart`, put together, are the result's text when the task succeeded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import celery
from celery import states
from celery.exceptions import TimeoutError
from celery.result import AsyncResult, EagerResult, assert_will_not_block

from gpu_mesh.errors import InvalidTask, StreamIncomplete
from gpu_mesh.services.patience import AWAY_S, patiently
from gpu_mesh.settings import Settings
from gpu_mesh.store import streams
from gpu_mesh.store.client import check_broker, connect

__all__ = ["Piece", "follow"]

T = TypeVar("T")

#: How often a silent stream's reader looks at the task's state, s: a run that was killed says nothing.
CHECK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Piece:
    """What a task said since the piece before; `print(piece, end="")` prints its text."""

    text: str = ""
    #: What a thinking model says to itself; no part of the answer.
    thinking: str = ""
    #: The run was lost and another one begins anew: forget all pieces before this one.
    restart: bool = False

    def __str__(self) -> str:
        return self.text


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
        return _whole(task.get())
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
        self._after = streams.START
        self._begin(0)

    def _begin(self, run: int) -> None:
        self._run = run
        #: Bytes given out of this run, and its text.
        self._at = 0
        self._text: list[str] = []
        self._thinking: list[str] = []
        #: Whether something was missed.
        self._behind = False
        self._ended: str | None = None

    def pieces(self) -> Iterator[Piece]:
        with connect(self._settings) as client:

            def read(wait_s: float = 0.0) -> list[streams.Entry]:
                return self._asked(lambda: streams.read(client, self._result.id, self._after, wait_s=wait_s))

            entries = read()
            while True:
                for entry in entries:
                    yield from self._take(entry)
                if (self._ended or not entries) and self._is_over():
                    while entries := read():
                        for entry in entries:
                            yield from self._take(entry)
                    yield from self._rest()
                    return
                entries = read(min(CHECK_EVERY_S, self._left_s()))

    def _take(self, entry: streams.Entry) -> Iterator[Piece]:
        self._after = entry.id
        if entry.run < self._run:  # a run that was replaced
            return
        if entry.run > self._run:
            had_said = bool(self._at)
            self._begin(entry.run)
            if had_said:
                yield Piece(restart=True)
        self._behind = self._behind or entry.at > self._at
        if entry.end is not None:
            self._ended = entry.end
        elif entry.size and entry.at == self._at and not self._behind:
            self._at += entry.size
            self._text.append(entry.text)
            self._thinking.append(entry.thinking)
            yield Piece(entry.text, entry.thinking)

    def _is_over(self) -> bool:
        """By its result, which is stored before the stream ends; by the stream, where no result is kept."""
        return self._asked(lambda: self._result.state) in states.READY_STATES or self._ended is not None

    def _rest(self) -> Iterator[Piece]:
        """What the result has beyond what was given out. Raises what the task raised."""
        if self._asked(lambda: self._result.state) in states.READY_STATES:
            yield from _whole(self._result.maybe_throw(), "".join(self._text), "".join(self._thinking))
        elif self._ended != states.SUCCESS:
            raise StreamIncomplete(f"{self._result.id} ended as {self._ended}; it keeps no result, nor its error")
        elif self._behind:
            raise StreamIncomplete(
                f"{self._result.id} said more than its stream holds, and keeps no result: "
                "read it sooner, raise GPU_MESH_STREAM_MAX_MB, or send it without ignore_result"
            )

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


def _whole(value: object, given: str = "", thought: str = "") -> Iterator[Piece]:
    """A result's text, beyond what of it was given out already."""
    answer = value if isinstance(value, Mapping) and isinstance(value.get("text"), str) else {}
    if not answer:
        return
    text, thinking = str(answer["text"]), str(answer.get("thinking", ""))
    if not (text.startswith(given) and thinking.startswith(thought)):
        yield Piece(text, thinking, restart=True)
    elif len(text) > len(given) or len(thinking) > len(thought):
        yield Piece(text[len(given) :], thinking[len(thought) :])
