"""Real processes of the mesh, started for a test and ended with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
from waiting import wait_for

#: How long a mesh may take to start on a slow machine, s.
START_S = 60.0


def runs(pid: int) -> bool:
    """Whether the process lives; one that nobody has waited for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def gpu_mesh(
    *args: str, log: Path, ready: str | None = None, env: Mapping[str, str] | None = None, stop: bool = True
) -> Iterator[subprocess.Popen[bytes]]:
    """`gpu-mesh ARGS` with its output in `log`; entered once a line there holds `ready`."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "gpu_mesh", *args],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    try:
        if ready is not None:
            wait_for(
                lambda: ready in log.read_text(errors="replace") or process.poll() is not None,
                f"{ready!r} in:\n{log}",
                START_S,
            )
            assert process.poll() is None, log.read_text(errors="replace")
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM if stop else signal.SIGKILL)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def run(*args: str, env: Mapping[str, str] | None = None, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """`gpu-mesh ARGS` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "gpu_mesh", *args],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        timeout=timeout_s,
        check=False,
    )
