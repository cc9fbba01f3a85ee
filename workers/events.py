"""What a supervisor tells about its children."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Action", "Event", "describe_exit"]


class Action(StrEnum):
    """What happened to a child."""

    #: It runs.
    STARTED = "started"
    #: It could not be started at all; `reason` says why.
    UNSTARTABLE = "unstartable"
    #: It ended without having been asked to; what was left of its process group is killed.
    DIED = "died"
    #: It is started again after `delay_s`.
    RESTARTING = "restarting"
    #: It was asked to stop.
    STOPPING = "stopping"
    #: It, and its process group, got SIGKILL: it did not stop in time, or all was to stop at once.
    KILLED = "killed"
    #: It ended after it was asked to.
    STOPPED = "stopped"
    #: Even SIGKILL did not end it (a driver that hangs holds it); it is left behind.
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened to one child. Its `str` is a sentence for people."""

    action: Action
    name: str
    #: Process id where there is or was a process.
    pid: int | None = None
    #: As `subprocess` gives it: the exit code, or the negative number of the signal that killed it.
    exit_code: int | None = None
    #: Seconds until the next start.
    delay_s: float | None = None
    #: Why, in words: "killed by SIGKILL", "exit code 3", "did not stop within 10 s".
    reason: str = ""

    def __str__(self) -> str:
        delay = "" if self.delay_s is None else f" in {self.delay_s:.1f} s"
        pid = "" if self.pid is None else f" (pid {self.pid})"
        reason = f": {self.reason}" if self.reason else ""
        return f"{self.name} {self.action}{delay}{pid}{reason}"


def describe_exit(code: int) -> str:
    """An exit code as `subprocess` gives it, in words: "exit code 3", "killed by SIGKILL"."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
