"""Parts of a report, each taken in a thread of its own: what hangs holds up nobody but itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

__all__ = ["Late", "Part"]

T = TypeVar("T")


class Late(Exception):
    """It was not taken in time."""


class Part(Generic[T]):
    """What `take` returns, within a limit. One that hangs is not begun again before it has returned."""

    def __init__(self, name: str, take: Callable[[], T]) -> None:
        self.name = name
        self._take = take
        self._taken: Future[T] | None = None
        self._began = 0.0

    def begin(self) -> None:
        """Have it taken anew."""
        if self._taken is not None and not self._taken.done():
            return
        taken: Future[T] = Future()
        self._taken, self._began = taken, time.monotonic()
        # As a daemon: what hangs must not keep this process from ending.
        threading.Thread(target=self._run, args=(taken,), name=f"vitals: {self.name}", daemon=True).start()

    def _run(self, taken: Future[T]) -> None:
        try:
            taken.set_result(self._take())
        except Exception as exc:  # noqa: BLE001  # raised again by `get`
            taken.set_exception(exc)

    def get(self, limit_s: float) -> T:
        """What was taken. Raises Late when it takes longer than `limit_s` from its beginning, else what it raised."""
        assert self._taken is not None
        try:
            return self._taken.result(max(0.0, self._began + limit_s - time.monotonic()))
        except TimeoutError:
            if self._taken.done():
                raise
            raise Late(f"not known after {time.monotonic() - self._began:.0f} s") from None
