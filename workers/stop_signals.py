"""How a service is told to stop: politely with the first signal, at once with the second."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Protocol

__all__ = ["StopSignals"]

#: Ctrl-C, and what service managers send. The second of them stops at once.
COUNTED = (signal.SIGINT, signal.SIGTERM)

#: Of one Ctrl-C a wrapper may forward a copy: a second signal this soon after the first is none, in seconds.
ECHO_S = 0.1


class _RequestStop(Protocol):
    def __call__(self, *, at_once: bool = False) -> None: ...


class StopSignals:
    """While entered, has SIGINT, SIGTERM and SIGHUP call `request_stop`; does nothing outside the main thread.

    A closed terminal sends SIGHUP more than once, so that one never means "at once"; where it is ignored (nohup)
    it stays ignored. What was installed before comes back at the end.
    """

    def __init__(self, request_stop: _RequestStop, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._request_stop = request_stop
        self._clock = clock
        self._first_at: float | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in (*COUNTED, signal.SIGHUP):
            before = signal.getsignal(number)
            if number == signal.SIGHUP and before is signal.SIG_IGN:
                continue
            self._before[number] = before
            signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            # None: not installed from Python, nothing that could be put back.
            signal.signal(number, signal.SIG_DFL if before is None else before)
        self._before.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = self._clock()
        if number not in COUNTED:
            self._request_stop()
        elif self._first_at is None:
            self._first_at = now
            self._request_stop()
        elif now - self._first_at >= ECHO_S:
            self._request_stop(at_once=True)
