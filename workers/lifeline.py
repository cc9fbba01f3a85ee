"""No orphans: what ties children to the life of their supervisor, even where it is killed with SIGKILL.

Two ropes, since each has a gap. The kernel's parent-death signal (Linux) is set before the child's first
instruction, but reaches no grandchild. The watcher process (any POSIX system) kills whole process groups,
but learns of a group only after its child was started.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType

__all__ = ["Lifeline", "adopt_orphans", "parent_death_hook"]

logger = logging.getLogger(__name__)

#: `prctl` option numbers, from Linux' <sys/prctl.h>.
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

#: How long the watcher may take to end once its pipe is closed, in seconds.
WATCHER_END_S = 5.0

#: The watcher needs none of the installed packages: without them it starts in some 10 ms and stays small.
WATCHER_ARGV = (sys.executable, "-I", "-S", str(Path(__file__).resolve().with_name("watcher.py")))


def _load_prctl() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    prctl.restype = ctypes.c_int
    return prctl


# Loaded here: between fork and exec there is no safe moment to load a library.
_prctl = _load_prctl()


def _die_with_parent(prctl: Callable[..., int], parent: int) -> None:
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # A parent that died before the call above sends no signal any more.
    if os.getppid() != parent:
        os._exit(1)


def parent_death_hook() -> Callable[[], None] | None:
    """A `preexec_fn` by which the kernel kills the child when the *thread* that forks it ends; None off Linux."""
    return None if _prctl is None else partial(_die_with_parent, _prctl, os.getpid())


def adopt_orphans() -> None:
    """From now on descendants whose parent ends become children of this process; nothing happens off Linux."""
    if _prctl is not None:
        _prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Lifeline:
    """A watcher process that kills the process groups it was told of once this process is gone.

    A context manager; what is still held on a regular end is killed too. Not thread-safe.
    """

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._watcher: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Lifeline:
        self._watcher = self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watcher is not None:
            self._end(self._watcher)
        self._watcher = None

    @property
    def pid(self) -> int | None:
        """The watcher's process id, None outside the context."""
        return None if self._watcher is None else self._watcher.pid

    def hold(self, group: int) -> None:
        """Have the process group killed when this process ends."""
        self._groups.add(group)
        self._tell(f"+{group}\n")

    def release(self, group: int) -> None:
        """The group is gone: its number may soon belong to a stranger."""
        self._groups.discard(group)
        self._tell(f"-{group}\n")

    def _tell(self, line: str) -> None:
        if self._watcher is None or self._watcher.stdin is None:
            return
        try:
            self._watcher.stdin.write(line.encode())
        except OSError:
            logger.warning("the watcher process died, starting another", extra={"action": "rewatch"})
            self._end(self._watcher)
            self._watcher = self._restart()

    def _restart(self) -> subprocess.Popen[bytes] | None:
        try:
            return self._start()
        except OSError:
            # Better unwatched than not running.
            logger.exception("no watcher: a killed supervisor may leave orphans", extra={"action": "rewatch"})
            return None

    def _start(self) -> subprocess.Popen[bytes]:
        watcher = subprocess.Popen(
            WATCHER_ARGV,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        if self._groups and watcher.stdin is not None:
            watcher.stdin.write("".join(f"+{group}\n" for group in sorted(self._groups)).encode())
        return watcher

    @staticmethod
    def _end(watcher: subprocess.Popen[bytes]) -> None:
        if watcher.stdin is not None:
            watcher.stdin.close()
        try:
            watcher.wait(WATCHER_END_S)
        except subprocess.TimeoutExpired:
            watcher.kill()
            watcher.wait()
