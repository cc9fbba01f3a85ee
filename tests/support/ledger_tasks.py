"""Tasks that keep a ledger of their runs in a file of the test's own: what ran is not the broker's word.

A line is `start|end TASK PID WORKER`, appended in one write.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from celery import shared_task
from waiting import wait_gone

__all__ = ["Ledger", "hold", "limited", "poison", "work"]

#: Longest wait of a held task, s: a test that forgets it must not keep a worker.
HOLD_S = 60.0


def _append(path: str, what: str, request) -> None:
    line = f"{what} {request.id} {os.getpid()} {request.hostname}\n"
    out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(out, line.encode())
    finally:
        os.close(out)


@shared_task(bind=True, name="ledger.work", ignore_result=True)
def work(self, ledger, seconds=0.0):
    """Write that it started, be busy for `seconds`, write that it ended."""
    _append(ledger, "start", self.request)
    threading.Event().wait(seconds)
    _append(ledger, "end", self.request)


@shared_task(bind=True, name="ledger.hold")
def hold(self, ledger, gate):
    """Be busy until the file `gate` is gone. The result says who did it."""
    _append(ledger, "start", self.request)
    wait_gone(gate, HOLD_S)
    _append(ledger, "end", self.request)
    return self.request.hostname


@shared_task(bind=True, name="ledger.limited", ignore_result=True, rate_limit="1/s")
def limited(self, ledger):
    """Write that it started and ended; a worker begins one a second."""
    _append(ledger, "start", self.request)
    _append(ledger, "end", self.request)


@shared_task(bind=True, name="ledger.poison", ignore_result=True)
def poison(self, ledger):
    """Kill the worker that runs it."""
    _append(ledger, "start", self.request)
    os.kill(os.getppid(), signal.SIGKILL)
    threading.Event().wait(HOLD_S)  # it dies with its parent


@dataclass(frozen=True, slots=True)
class Run:
    """One line of the ledger."""

    what: str
    task: str
    pid: int
    worker: str


class Ledger:
    """What the tasks wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[Run]:
        if not self.path.exists():
            return []
        rows = [line.split(" ") for line in self.path.read_text().splitlines()]
        return [Run(what, task, int(pid), worker) for what, task, pid, worker in rows]

    def starts(self, task: str) -> list[Run]:
        """The starts of one task, in order."""
        return [run for run in self.lines() if run.what == "start" and run.task == task]

    def ends(self) -> Counter[str]:
        """How often each task was run to its end."""
        return Counter(run.task for run in self.lines() if run.what == "end")

    def duplicates(self) -> int:
        """Ends beyond the first of each task."""
        return sum(count - 1 for count in self.ends().values())
