"""Starts one script and answers for all its processes. Run as a program by `process`, standard library only.

Standard input is a pipe that only the worker's process holds: `T` asks the script to stop (SIGTERM to its first
process, after the grace SIGKILL to all), `K` kills all; when the pipe ends, however the worker's process died, all is
killed at once: the job may run elsewhere by then. What a script leaves behind when it ends is killed as well. Once
nothing of it is left the working folder is deleted and `{"code", "limit", "error", "left"}` goes to the status pipe.

On Linux nothing escapes: as a subreaper the guard inherits what detaches itself, and should the guard die, the kernel
kills the script. Elsewhere the script's process group is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Guard", "descendants", "families"]

#: `prctl` option numbers, from Linux' <sys/prctl.h>.
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
#: What ends a whole service or session must not end the one who cleans up after it.
DEAF_TO = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
#: How long processes may survive SIGKILL before they are given up, s; between two looks at them, s.
KILL_S, LOOK_S = 10.0, 0.02
#: Pause between two looks where nothing is due, s: nothing depends on it.
IDLE_S = 5.0
_LINUX = sys.platform.startswith("linux")


def _load_prctl() -> Callable[..., int] | None:
    if not _LINUX:
        return None
    prctl = ctypes.CDLL(None).prctl
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    prctl.restype = ctypes.c_int
    return prctl


def families() -> dict[int, list[int]]:
    """The children of every process that has some, on Linux."""
    below: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name, in brackets, may hold anything.
            parent = int(stat.read_bytes().rpartition(b")")[2].split()[1])
            below.setdefault(parent, []).append(int(stat.parent.name))
    return below


def descendants(pid: int) -> list[int]:
    """Every process below `pid`, on Linux."""
    below = families()
    found, todo = [], [pid]
    while todo:
        children = below.get(todo.pop(), [])
        found += children
        todo += children
    return found


class Guard:
    """One script's. `spec`: argv, arguments (a file's path), folder, status (a file descriptor), limit_s, grace_s."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec
        self._prctl = _load_prctl()
        self._script: subprocess.Popen[bytes] | None = None
        self._code: int | None = None
        self._timed_out = False
        self._limit_at = self._kill_at = math.inf
        self._woken, self._waker = os.pipe()
        for end in (self._woken, self._waker):
            os.set_blocking(end, False)

    def run(self) -> None:
        """Until nothing of the script is left."""
        # Handlers, other than ignored signals, are not inherited by the script.
        for number in (*DEAF_TO, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        if self._prctl is not None:
            self._prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        error = self._start()
        if error is None:
            self._watch()
        left = self._kill_all()
        shutil.rmtree(self._spec["folder"], ignore_errors=True)
        status = {"code": self._code, "limit": self._timed_out, "error": error, "left": left}
        with contextlib.suppress(OSError):
            os.write(self._spec["status"], json.dumps(status).encode())

    def _start(self) -> str | None:
        """Why it cannot be started; None where it was."""
        try:
            with Path(self._spec["arguments"]).open("rb") as stdin:
                self._script = subprocess.Popen(
                    self._spec["argv"],
                    stdin=stdin,
                    start_new_session=True,
                    preexec_fn=self._die_with_guard(os.getpid()),
                )
        except (OSError, subprocess.SubprocessError) as exc:
            return str(exc)
        finally:
            # The script alone writes to them: their end is its end.
            nowhere = os.open(os.devnull, os.O_RDWR)
            for number in (1, 2):
                os.dup2(nowhere, number)
        if self._spec["limit_s"] is not None:
            self._limit_at = time.monotonic() + self._spec["limit_s"]
        return None

    def _die_with_guard(self, guard: int) -> Callable[[], None] | None:
        prctl = self._prctl
        if prctl is None:
            return None

        def hook() -> None:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != guard:
                os._exit(1)

        return hook

    def _watch(self) -> None:
        while self._code is None:
            now = time.monotonic()
            if now >= self._kill_at:
                return
            if now >= self._limit_at:
                self._timed_out, self._limit_at = True, math.inf
                self._stop()
            self._sleep(min(IDLE_S, self._kill_at - now, max(0.0, self._limit_at - now)))
            if select.select([0], [], [], 0)[0]:
                said = os.read(0, 64)
                if not said or b"K" in said:
                    return
                self._stop()
            self._reap()

    def _sleep(self, seconds: float) -> None:
        select.select([0, self._woken], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            os.read(self._woken, 4096)

    def _stop(self) -> None:
        """Ask the script, whose own processes may have to work on while it saves."""
        if self._script is None or self._kill_at < math.inf:
            return
        self._kill_at = time.monotonic() + self._spec["grace_s"]
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._script.pid, signal.SIGTERM)

    def _reap(self) -> bool:
        """Bury what has died. Whether there are any more."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if self._script is not None and pid == self._script.pid:
                self._code = self._script.returncode = os.waitstatus_to_exitcode(status)

    def _kill_all(self) -> list[int]:
        """SIGKILL to all of it until nothing is left; those that do not die."""
        if self._script is None:
            return []
        if not _LINUX:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._script.pid, signal.SIGKILL)
        end = time.monotonic() + KILL_S
        while self._reap():
            if time.monotonic() > end:
                return descendants(os.getpid()) if _LINUX else [self._script.pid]
            for pid in descendants(os.getpid()) if _LINUX else []:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            select.select([self._woken], [], [], LOOK_S)
            with contextlib.suppress(BlockingIOError):
                os.read(self._woken, 4096)
        return []


if __name__ == "__main__":
    Guard(json.loads(sys.argv[1])).run()
