"""End the `redis-server` that an owner who died left behind, with its data saved."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from gpu_mesh.errors import EmbeddedRedisError, MeshError
from gpu_mesh.store.redis_address import Address, ask

__all__ = ["POLL_S", "end_leftover", "wait_until"]

logger = logging.getLogger(__name__)

#: Pause between two looks at something that is waited for, in seconds.
POLL_S = 0.02
#: How long a killed process may take to vanish, in seconds.
KILL_TIMEOUT_S = 5.0


def end_leftover(server: Address, config_file: Path, data_dir: Path, *, timeout_s: float) -> None:
    """End every server that still works on `data_dir`. To be called by the owner of the folder only.

    One that answers to our password and names our folder is asked to shut down. A process whose command line
    names our config file is told to end, and killed when it has not ended within `timeout_s` seconds. Nobody else is
    touched. Raises EmbeddedRedisError when one lives on: two servers on one folder would spoil its data.
    """
    answered = _is_ours(server, data_dir)
    if answered:
        # A server that obeys closes the connection instead of answering.
        with contextlib.suppress(MeshError):
            ask(server, "SHUTDOWN")
    left = [process for process in psutil.process_iter() if _names(process, config_file, data_dir)]
    for process in left:
        _signal(process, "ending", process.terminate)

    def ended() -> bool:
        alive = any(_names(process, config_file, data_dir) for process in left)
        return not alive and not (answered and _is_ours(server, data_dir))

    if wait_until(ended, timeout_s):
        return
    for process in left:
        if _names(process, config_file, data_dir):
            _signal(process, "killing", process.kill)
    if not wait_until(ended, KILL_TIMEOUT_S):
        pids = ", ".join(str(process.pid) for process in left)
        raise EmbeddedRedisError(
            f"a redis-server that was left at {server.masked} still works on {data_dir} and does not end "
            f"(process {pids or 'not visible from here'}): end it, then retry"
        )


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


def _signal(process: psutil.Process, verb: str, send: Callable[[], None]) -> None:
    logger.warning(
        "%s redis-server %d, left by a `gpu-mesh up` that died", verb, process.pid, extra={"action": "leftover"}
    )
    with contextlib.suppress(psutil.NoSuchProcess):
        send()
