"""One run of a command that may turn out to be a server: in a session of its own, its output kept and passed on."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import RawIOBase
from typing import cast

from workers.lifeline import Lifeline, parent_death_hook
from workers.output import split_lines
from workers.process import CHILD_ENV, LAST_WORDS_S

__all__ = ["Command"]

#: Last lines of its output that are kept, and how much of each, in characters.
KEPT_LINES, KEPT_CHARACTERS = 20, 300
#: How long it may take to stop before it is killed, s, and to end after that.
STOP_S, END_S = 10.0, 5.0
#: Between two looks whether it has ended, s.
LOOK_S = 0.05


class Command:
    """A command that runs. It, and all of its process group, is killed when the calling thread or this process ends.

    What leaves its group, as a service that a service manager starts, is not its own. `on_line` gets its output, from
    another thread. Raises OSError or ValueError where it cannot be started.
    """

    def __init__(self, argv: Sequence[str], lifeline: Lifeline, on_line: Callable[[str], None]) -> None:
        self.argv = tuple(argv)
        self._lifeline = lifeline
        self._on_line = on_line
        self._said: deque[str] = deque(maxlen=KEPT_LINES)
        self._popen = subprocess.Popen(
            self.argv,
            bufsize=0,
            env={**CHILD_ENV, **os.environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=parent_death_hook(),
        )
        self.pid = self._popen.pid
        lifeline.hold(self.pid)
        self._held = True
        self._reader = threading.Thread(target=self._read, name="output of a repair", daemon=True)
        self._reader.start()

    def exit_code(self) -> int | None:
        """Its exit code, or the negative number of the signal that ended it; None while it runs.

        What it left in its group lives on: a script may have put the server into the background.
        """
        code = self._popen.poll()
        if code is not None and self._held:
            self._held = False
            self._lifeline.release(self.pid)
            self._reader.join(LAST_WORDS_S)
        return code

    def output(self) -> tuple[str, ...]:
        """The last lines that it said."""
        return tuple(self._said)

    def kill(self) -> None:
        """SIGKILL to it and its group, where it runs."""
        if self._popen.returncode is not None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._await_end(END_S)

    def stop(self) -> None:
        """Ask it to stop, then kill what is left of its group."""
        if self.exit_code() is not None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, signal.SIGTERM)
            # One that was stopped would not hear of it.
            os.kill(self.pid, signal.SIGCONT)
        # Without reaping: its number must stay its own until the group is killed.
        end = time.monotonic() + STOP_S
        while time.monotonic() < end and not self._has_died():
            time.sleep(LOOK_S)
        self.kill()

    def _has_died(self) -> bool:
        if not hasattr(os, "waitid"):
            return self._popen.poll() is not None
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def _await_end(self, limit_s: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(limit_s)
        self.exit_code()

    def _read(self) -> None:
        with cast(RawIOBase, self._popen.stdout) as stream:
            for line in split_lines(stream):
                self._said.append(line[:KEPT_CHARACTERS])
                self._on_line(line)
