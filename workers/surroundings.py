"""What belongs to the process and a job may change: folder, environment, umask, signals, timers, limits (SPEC P7)."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Surroundings"]

_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
#: Those of `resource` that end a process, or fail what it asks for.
_LIMITS = {
    name: getattr(resource, name)
    for name in ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_NPROC")
    if hasattr(resource, name)
}


class Surroundings:
    """As they are when it is made. For the main thread: no other one may set signals."""

    def __init__(self) -> None:
        self._folder = _folder()
        self._environment = dict(os.environ)
        self._umask = os.umask(0o77)
        os.umask(self._umask)
        self._handlers = {number: signal.getsignal(number) for number in signal.Signals}
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._limits = {name: resource.getrlimit(number) for name, number in _LIMITS.items()}

    def restore(self) -> list[str]:
        """Make them so again; names of what a job had changed. Less than 0.1 ms.

        Raises OSError for a folder that is gone.
        """
        # The folder last: it is what may fail for good.
        parts = (self._timers, self._signals, self._umasks, self._variables, self._limit, self._folders)
        return [name for part in parts for name in part()]

    def _timers(self) -> Iterator[str]:
        for timer in _TIMERS:
            if any(signal.setitimer(timer, 0)):
                yield "a timer"

    def _signals(self) -> Iterator[str]:
        if signal.pthread_sigmask(signal.SIG_SETMASK, self._mask) != self._mask:
            yield "blocked signals"
        for number, handler in self._handlers.items():
            # None: not set from Python, so that Python cannot set it again.
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
                yield f"the handler of {number.name}"

    def _umasks(self) -> Iterator[str]:
        if os.umask(self._umask) != self._umask:
            yield "umask"

    def _variables(self) -> Iterator[str]:
        if os.environ == self._environment:
            return
        now = dict(os.environ)
        for name in sorted(now.keys() | self._environment.keys()):
            before = self._environment.get(name)
            if now.get(name) == before:
                continue
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before
            yield f"${name}"

    def _folders(self) -> Iterator[str]:
        if self._folder is not None and _folder() != self._folder:
            os.chdir(self._folder)
            yield "the working folder"

    def _limit(self) -> Iterator[str]:
        for name, before in self._limits.items():
            now = resource.getrlimit(_LIMITS[name])
            if now == before:
                continue
            try:
                resource.setrlimit(_LIMITS[name], before)
                yield name
            except (OSError, ValueError):  # a hard limit, which root alone may raise
                self._limits[name] = (now[1], now[1])
                resource.setrlimit(_LIMITS[name], self._limits[name])
                yield f"{name} (as far as its hard limit, {now[1]}, which holds until this worker is started again)"


def _folder() -> str | None:
    """None where it is gone."""
    try:
        return str(Path.cwd())
    except OSError:
        return None
