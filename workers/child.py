"""The life of one supervised process: started, died, started again later, asked to stop, killed, stopped.

Driven by `look`, which never blocks for long; all times come from the context's clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from subprocess import SubprocessError
from typing import Protocol

from gpu_mesh.domain.backoff import Backoff
from workers.events import Action, Event, describe_exit
from workers.process import ProcessSpec

__all__ = ["Child", "Context", "Running"]

#: How long the rest of a dead child's process group is waited for, in seconds.
GROUP_GONE_S = 5.0

#: How long a process may survive SIGKILL before a stop goes on without it, in seconds.
ABANDON_S = 10.0


class Running(Protocol):
    """What a child needs of a `workers.process.Process`."""

    pid: int

    def has_died(self) -> bool: ...
    def reap(self) -> int: ...
    def send(self, number: int) -> None: ...
    def kill_group(self) -> None: ...
    def group_is_gone(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What all children of one supervisor share."""

    #: Starts a process; raises OSError, ValueError or SubprocessError where it cannot.
    spawn: Callable[[ProcessSpec], Running]
    backoff: Backoff
    #: Seconds, monotonic.
    clock: Callable[[], float]
    #: A random number in [0, 1].
    chance: Callable[[], float]
    emit: Callable[[Event], None]
    #: Called with an exit code that is to stop everything.
    on_fatal: Callable[[int], None]


class Child:
    """One spec and the process that runs for it, if one does. Belongs to the supervising thread."""

    def __init__(self, spec: ProcessSpec, context: Context) -> None:
        self.spec = spec
        #: When to start it; None: not now.
        self.due_at: float | None = None
        self._context = context
        self._process: Running | None = None
        # The process before, until the last of its group is gone.
        self._ghost: Running | None = None
        self._ghost_until = 0.0
        self._failures = 0
        self._started_at = 0.0
        # Set once it was asked to stop, and once it was killed.
        self._kill_at: float | None = None
        self._abandon_at: float | None = None

    @property
    def pid(self) -> int | None:
        """Process id where one runs."""
        return self._process.pid if self._process else None

    @property
    def is_gone(self) -> bool:
        """Whether nothing of it runs."""
        return self._process is None and self._ghost is None

    def start(self) -> None:
        """Have the next look start it."""
        self.due_at = self._context.clock()

    def look(self) -> None:
        """See what happened and do what is due."""
        now = self._context.clock()
        if self._process is not None:
            self._look_at(self._process, now)
        if self._ghost is not None and (now >= self._ghost_until or self._ghost.group_is_gone()):
            self._ghost = None
        if self.is_gone and self.due_at is not None and now >= self.due_at:
            self._start(now)

    def stop(self) -> None:
        """Ask it to stop, and start it no more. It is killed where that takes too long."""
        self.due_at = None
        if self._process is None or self._kill_at is not None:
            return
        self._kill_at = self._context.clock() + self.spec.stop_timeout_s
        self._emit(Action.STOPPING)
        self._process.send(self.spec.stop_signal)

    def kill(self, reason: str) -> None:
        """Kill it and its group, and start it no more."""
        self.due_at = None
        if self._process is None or self._abandon_at is not None:
            return
        now = self._context.clock()
        self._kill_at = now
        self._abandon_at = now + ABANDON_S
        self._process.kill_group()
        self._emit(Action.KILLED, reason=reason)

    def next_at(self) -> float | None:
        """When `look` will have something to do by the clock alone."""
        if self._ghost is not None:
            return self._context.clock()
        limit = self._kill_at if self._abandon_at is None else self._abandon_at
        return min((at for at in (self.due_at, limit) if at is not None), default=None)

    def _look_at(self, process: Running, now: float) -> None:
        if process.has_died():
            self._bury(process)
        elif self._abandon_at is not None:
            if now >= self._abandon_at:
                self._emit(Action.ABANDONED, reason=f"still there {ABANDON_S:g} s after SIGKILL")
                self._process = self._kill_at = self._abandon_at = None
        elif self._kill_at is not None and now >= self._kill_at:
            self.kill(f"did not stop within {self.spec.stop_timeout_s:g} s")

    def _start(self, now: float) -> None:
        self.due_at = None
        try:
            self._process = self._context.spawn(self.spec)
        except (OSError, ValueError, SubprocessError) as error:
            self._emit(Action.UNSTARTABLE, reason=f"cannot run {self.spec.argv[0]!r}: {error}")
            if self.spec.restart:
                self._try_again(ran_s=0.0)
            return
        self._started_at = now
        self._emit(Action.STARTED)

    def _bury(self, process: Running) -> None:
        code = process.reap()
        now = self._context.clock()
        self._process, self._ghost, self._ghost_until = None, process, now + GROUP_GONE_S
        asked = self._kill_at is not None
        self._kill_at = self._abandon_at = None
        self._emit(Action.STOPPED if asked else Action.DIED, pid=process.pid, code=code, reason=describe_exit(code))
        if asked:
            return
        if code in self.spec.fatal_exit_codes:
            self._context.on_fatal(code)
        elif self.spec.restart:
            self._try_again(ran_s=now - self._started_at)

    def _try_again(self, *, ran_s: float) -> None:
        self._failures = self._context.backoff.failures_after(self._failures, ran_s)
        delay = self._context.backoff.delay_s(self._failures, self._context.chance())
        self.due_at = self._context.clock() + delay
        self._emit(Action.RESTARTING, delay=delay)

    def _emit(
        self,
        action: Action,
        *,
        pid: int | None = None,
        code: int | None = None,
        delay: float | None = None,
        reason: str = "",
    ) -> None:
        self._context.emit(
            Event(
                action=action,
                name=self.spec.name,
                pid=self.pid if pid is None else pid,
                exit_code=code,
                delay_s=delay,
                reason=reason,
            )
        )
