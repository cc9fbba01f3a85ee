"""A ledger of runs in a file that the tasks themselves append to: what ran is not the broker's word.

A line is `start|end TASK PID WORKER TIME`, appended in one write; TIME in s since the epoch.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Ledger", "Run", "append", "duplicates", "lost"]


@dataclass(frozen=True, slots=True)
class Run:
    """One line."""

    what: str
    task: str
    pid: int
    worker: str
    at: float


def append(path: str, what: str, task: str, worker: str) -> None:
    """Write one line."""
    line = f"{what} {task} {os.getpid()} {worker} {time.time():.6f}\n"
    out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(out, line.encode())
    finally:
        os.close(out)


class Ledger:
    """Reads it, each line once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._runs: list[Run] = []
        self._offset = 0
        path.touch()

    def runs(self) -> list[Run]:
        """Every line so far."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            new, _, _ = file.read().rpartition(b"\n")
        if new:
            self._offset += len(new) + 1
            for line in new.decode().split("\n"):
                what, task, pid, worker, at = line.split(" ")
                self._runs.append(Run(what, task, int(pid), worker, float(at)))
        return self._runs

    def starts(self, task: str) -> list[Run]:
        """The starts of a task, in order."""
        return [run for run in self.runs() if run.what == "start" and run.task == task]

    def ends(self) -> Counter[str]:
        """How often each task was run to its end."""
        return Counter(run.task for run in self.runs() if run.what == "end")


def lost(sent: Collection[str], ends: Counter[str]) -> int:
    """Tasks that were sent and never ended."""
    return sum(task not in ends for task in sent)


def duplicates(ends: Counter[str]) -> int:
    """Ends beyond the first of each task."""
    return sum(count - 1 for count in ends.values())
