"""How a `redis-server` ends: with its parent, or later, as the leftover of one that died."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from gpu_mesh.errors import EmbeddedRedisError, MeshError
from gpu_mesh.store.redis_address import Address, ask

__all__ = ["POLL_S", "end_leftover", "end_with_parent", "wait_until"]

logger = logging.getLogger(__name__)

#: Pause between two looks at something that is waited for, in seconds.
POLL_S = 0.02
#: How long a killed process may take to vanish, in seconds.
KILL_TIMEOUT_S = 5.0
#: Linux's `prctl` option: the signal that a process gets when its parent dies (prctl(2)).
PR_SET_PDEATHSIG = 1


def end_leftover(server: Address, config_file: Path, data_dir: Path, *, timeout_s: float) -> None:
    """End every server that still works on `data_dir`. To be called by the owner of the folder only.

    One that answers to our password and names our folder is asked to shut down. A process whose command line
    names our config file is told to end, and killed when it has not ended within `timeout_s` seconds. Nobody else is
    touched. Raises EmbeddedRedisError when one lives on: two servers on one folder would spoil its data.
    """
    left = [process for process in psutil.process_iter() if _names(process, config_file, data_dir)]
    answered = _is_ours(server, data_dir)
    if answered:
        # A server that obeys closes the connection instead of answering.
        with contextlib.suppress(MeshError):
            ask(server, "SHUTDOWN")
    for process in filter(_lives, left):
        _signal(process, "ending", process.terminate)

    def ended() -> bool:
        return not any(map(_lives, left)) and not (answered and _is_ours(server, data_dir))

    if wait_until(ended, timeout_s):
        return
    for process in filter(_lives, left):
        _signal(process, "killing", process.kill)
    if not wait_until(ended, KILL_TIMEOUT_S):
        pids = ", ".join(str(process.pid) for process in left)
        raise EmbeddedRedisError(
            f"a redis-server that was left at {server.masked} still works on {data_dir} and does not end "
            f"(process {pids or 'not visible from here'}): end it, then retry"
        )


def end_with_parent() -> Callable[[], None] | None:
    """For a child, before its exec: SIGTERM when the parent dies, so that it saves and ends. Linux only."""
    if sys.platform != "linux":
        return None
    # Loaded here: between fork and exec only calls are safe, no imports.
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask_kernel() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        # It may have died before we asked.
        if os.getppid() != parent:
            os._exit(1)

    return ask_kernel


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Whether the condition came true within `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _is_ours(server: Address, data_dir: Path) -> bool:
    """Whether what answers there has our password and our folder: a copied state folder shares only the first."""
    try:
        answer = ask(server, "CONFIG", "GET", "dir")
    except MeshError:
        return False
    return isinstance(answer, list) and len(answer) == 2 and Path(answer[1]).resolve() == data_dir


def _names(process: psutil.Process, config_file: Path, data_dir: Path) -> bool:
    """Whether the process is a server started with our config file, not an editor that shows it."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        if str(config_file) in process.cmdline():
            return process.name().endswith("-server") or Path(process.cwd()) == data_dir
    return False


def _lives(process: psutil.Process) -> bool:
    """Whether it has not ended; once it has, its port is free, too."""
    with contextlib.suppress(psutil.NoSuchProcess):
        # Nobody may collect an orphan that ended: a container's first process often does not.
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _signal(process: psutil.Process, verb: str, send: Callable[[], None]) -> None:
    logger.warning(
        "%s redis-server %d, left by a `gpu-mesh up` that died", verb, process.pid, extra={"action": "leftover"}
    )
    # One that is another user's lives on, and is reported.
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        send()
