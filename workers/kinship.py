"""Which processes a job started, and their end: also of those that detached themselves (SPEC P7).

On Linux a pool child adopts what its job detaches, and its worker what a child that was killed leaves. The worker knows
a job's processes from its own by how readily the kernel ends them when memory runs out: a pool child raises that for
itself, and all that it starts inherits it. So it is a job that is ended first, too, and not the worker that holds its
claim.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Collection, Container, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from gpu_mesh.services.scripts.guard import families

__all__ = ["bears_mark", "below", "command", "end", "has_children", "mark", "pause", "tree"]

#: Added to a pool child's `oom_score_adj`; the kernel's scale is 1000.
JOB_OOM_SCORE = 100
HIGHEST_OOM_SCORE = 1000
#: Between two looks whether killed processes are gone, s.
LOOK_S = 0.005
_LINUX = sys.platform.startswith("linux")


def has_children() -> bool:
    """Whether this process has any, dead ones that nobody waited for included. A microsecond on Linux."""
    if not _LINUX:
        return bool(psutil.Process().children())
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def tree() -> Mapping[int, Sequence[int]]:
    """The children of every process of this machine that has some. A look at all of them: some ms."""
    if _LINUX:
        return families()
    found: dict[int, list[int]] = {}
    for process in psutil.process_iter(["ppid"]):
        found.setdefault(process.info["ppid"], []).append(process.pid)
    return found


def below(
    pid: int, tree: Mapping[int, Sequence[int]], *, sparing: Container[int] = (), through: Container[int] = ()
) -> list[int]:
    """Every process below `pid`, without those of `sparing` and what is below them, and without those of `through`."""
    found, todo = [], [pid]
    while todo:
        for child in tree.get(todo.pop(), ()):
            if child in sparing:
                continue
            todo.append(child)
            if child not in through:
                found.append(child)
    return found


def command(pid: int) -> str:
    """Its words; empty where it is gone, dead or another user's."""
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""


def end(pids: Collection[int]) -> None:
    """SIGKILL to all of them; those that are children of this process and dead are buried."""
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    for pid in pids:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def mark() -> None:
    """Mark this process, and all that it will start, as a job's; without effect where the score is the highest."""
    own = _oom_score("self")
    if own is None or own >= HIGHEST_OOM_SCORE:
        return
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(min(HIGHEST_OOM_SCORE, own + JOB_OOM_SCORE)))


def bears_mark(pid: int) -> bool:
    """Whether a process is marked, seen from one that is not."""
    own, its = _oom_score("self"), _oom_score(str(pid))
    return own is not None and its is not None and its > own


def pause() -> None:
    """Let killed processes end."""
    time.sleep(LOOK_S)


def _oom_score(pid: str) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())
    except (OSError, ValueError):
        return None
