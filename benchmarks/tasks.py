"""What both sides run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from celery import shared_task

from benchmarks import ledger

#: Longest wait of a held task, s: a benchmark that dies must not keep a worker.
HOLD_S = 300.0


@shared_task
def started() -> float:
    """When the first line of the task ran, s since the epoch."""
    return time.time()


@shared_task(ignore_result=True)
def noop() -> None:
    """Nothing."""


@shared_task(bind=True, ignore_result=True)
def work(self: Any, path: str, seconds: float) -> None:
    """Enter in the ledger that it started, be busy for `seconds`, enter that it ended."""
    ledger.append(path, "start", self.request.id, self.request.hostname)
    time.sleep(seconds)
    ledger.append(path, "end", self.request.id, self.request.hostname)


@shared_task(bind=True, ignore_result=True, preemptible=True)
def checkpointed(self: Any, path: str, seconds: float, step_s: float) -> None:
    """The same in steps, saved after each; the ledger has those that were kept."""
    ledger.append(path, "start", self.request.id, self.request.hostname)
    steps = self.restored or 0
    while steps < round(seconds / step_s):
        time.sleep(step_s)
        steps += 1
        try:
            self.checkpoint(steps)
        finally:
            ledger.append(path, "kept", self.request.id, self.request.hostname)
    ledger.append(path, "end", self.request.id, self.request.hostname)


@shared_task(bind=True, ignore_result=True, preemptible="restart")
def restartable(self: Any, path: str, seconds: float, step_s: float) -> None:
    """Busy for `seconds`, with nothing to save."""
    ledger.append(path, "start", self.request.id, self.request.hostname)
    time.sleep(seconds)
    ledger.append(path, "end", self.request.id, self.request.hostname)


@shared_task(bind=True, ignore_result=True, preemptible=False)
def whole(self: Any, path: str, seconds: float) -> None:
    """Busy for `seconds`, whoever waits."""
    ledger.append(path, "start", self.request.id, self.request.hostname)
    time.sleep(seconds)
    ledger.append(path, "end", self.request.id, self.request.hostname)


@shared_task(bind=True, ignore_result=True)
def hold(self: Any, path: str, gate: str) -> None:
    """The same, busy while the file `gate` is there."""
    ledger.append(path, "start", self.request.id, self.request.hostname)
    end = time.monotonic() + HOLD_S
    while Path(gate).exists() and time.monotonic() < end:
        time.sleep(0.01)
    ledger.append(path, "end", self.request.id, self.request.hostname)
