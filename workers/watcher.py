"""Kills what a killed supervisor left behind. Run as a script by `workers.lifeline`, standard library only.

Standard input is a pipe that only the supervisor holds: `+123` names a process group to kill when the pipe
ends, `-123` forgets it. However the supervisor dies, the kernel closes its end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import BinaryIO

__all__ = ["watch"]

#: What ends a whole service or session at once must not end the one who cleans up after it.
IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


def watch(pipe: BinaryIO) -> None:
    """Keep account of process groups until the pipe ends, then kill those that are left."""
    groups: set[int] = set()
    for line in pipe:
        group = int(line[1:])
        if line.startswith(b"+"):
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    watch(sys.stdin.buffer)
