"""One child process, as it is described and as it runs: in a session of its own, its output read to the last word."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import RawIOBase
from typing import cast

import psutil

from workers.lifeline import Lifeline, parent_death_hook
from workers.output import LineFeed, split_lines

__all__ = ["CHILD_ENV", "EX_CONFIG", "LAST_WORDS_S", "TELLS_OF_DEATH", "Process", "ProcessSpec"]

#: Exit code of a program whose configuration is bad (<sysexits.h>): starting it again would not help.
EX_CONFIG = 78

#: How long a child may take to stop before it is killed, in seconds.
STOP_TIMEOUT_S = 10.0

#: How long the last words of a dead child are waited for, in seconds. They may not end where a process that
#: left its group holds the pipe.
LAST_WORDS_S = 0.5

#: Whether the system can tell of a death without reaping: macOS cannot.
TELLS_OF_DEATH = hasattr(os, "waitid")

#: A Python child that is killed would take the lines in its buffer with it.
CHILD_ENV = {"PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """A program to keep running."""

    #: Unique in its supervisor; stands before each line of its output.
    name: str
    argv: Sequence[str]
    #: Merged over this process's environment.
    env: Mapping[str, str] = field(default_factory=dict)
    #: Lower ones start first and stop last.
    stage: int = 0
    #: Sent to the process itself, not to its group: it may have children to stop in order.
    stop_signal: int = signal.SIGTERM
    stop_timeout_s: float = STOP_TIMEOUT_S
    #: Returns when the program, once started, can serve the next stage; raises to give the whole start up.
    #: Called once, in a thread of its own, with a time limit of its own; not called after a restart.
    ready: Callable[[], None] | None = None
    #: Called once, in the supervising thread, when the later stages have stopped and before this one is to: it must
    #: return soon.
    before_stop: Callable[[], None] | None = None
    #: Whether to start it again when it ends, with whatever exit code.
    restart: bool = True
    #: Exit codes that stop everything, and that the supervisor then returns; see `EX_CONFIG`.
    fatal_exit_codes: frozenset[int] = frozenset()


class Process:
    """A running child. Its process group has the number of its `pid`, which stays its own until `reap`."""

    def __init__(self, popen: subprocess.Popen[bytes], lifeline: Lifeline, reader: threading.Thread) -> None:
        self.pid = popen.pid
        self._popen = popen
        self._lifeline = lifeline
        self._reader = reader

    @classmethod
    def start(cls, spec: ProcessSpec, lifeline: Lifeline, feed: LineFeed, on_death: Callable[[], None]) -> Process:
        """Start it. It is killed when the calling thread ends.

        `on_death` is called, in another thread, when it died and its output ended, or when it has died and a stranger
        keeps its output open. Raises OSError, ValueError or SubprocessError where it cannot be started.
        """
        popen = subprocess.Popen(
            list(spec.argv),
            bufsize=0,
            env={**CHILD_ENV, **os.environ, **spec.env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A Ctrl-C in the terminal must reach the supervisor only, which stops its children in order.
            start_new_session=True,
            preexec_fn=parent_death_hook(),
        )
        lifeline.hold(popen.pid)
        stream = cast(RawIOBase, popen.stdout)
        reader = threading.Thread(
            target=_attend,
            args=(spec.name, popen.pid, stream, feed, on_death),
            name=f"output of {spec.name}",
            daemon=True,
        )
        reader.start()
        if TELLS_OF_DEATH:
            threading.Thread(
                target=_await_death, args=(popen.pid, reader, on_death), name=f"death of {spec.name}", daemon=True
            ).start()
        return cls(popen, lifeline, reader)

    def has_died(self) -> bool:
        """Whether it ended. Where the system can tell without it, does not reap."""
        if not TELLS_OF_DEATH:
            return self._popen.poll() is not None
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def reap(self) -> int:
        """Bury it, once it has died: kill what is left of its group, hear its last words, free its number.

        Returns its exit code, or the negative number of the signal that killed it.
        """
        self.kill_group()
        self._lifeline.release(self.pid)
        code = self._popen.wait()
        self._reader.join(LAST_WORDS_S)
        return code

    def send(self, number: int) -> None:
        """Send a signal to the process itself."""
        # Not `Popen.send_signal`: it reaps, and the number must stay ours until the group is killed.
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill_group(self) -> None:
        """SIGKILL to the process and to all it started that stayed in its group."""
        # PermissionError: macOS says so of a group that has only zombies left.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def group_is_gone(self) -> bool:
        """Whether, after `reap`, the last of its group has ended too. It may take its time: freeing GPU memory does."""
        with suppress(ChildProcessError):
            # As the first process of a container we inherit orphans, and nobody else would reap them.
            while os.waitpid(-self.pid, os.WNOHANG) != (0, 0):
                pass
        return not any(_runs_in(self.pid, pid) for pid in psutil.pids())


def _attend(name: str, pid: int, stream: RawIOBase, feed: LineFeed, on_death: Callable[[], None]) -> None:
    with stream:
        for line in split_lines(stream):
            feed.put(name, line)
    # The kernel closes a dying process's files before it tells of the death.
    with suppress(AttributeError, ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    on_death()


def _await_death(pid: int, reader: threading.Thread, on_death: Callable[[], None]) -> None:
    with suppress(ChildProcessError):  # reaped already
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    reader.join(LAST_WORDS_S)
    if reader.is_alive():
        on_death()


def _runs_in(group: int, pid: int) -> bool:
    """Whether the process is of the group and still runs; a zombie, for which `killpg` would succeed, does not."""
    try:
        return os.getpgid(pid) == group and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
        return False
