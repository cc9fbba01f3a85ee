"""Tasks that are preempted, and those that preempt them; each writes into the ledger what it does."""

from __future__ import annotations

import time
from pathlib import Path

from celery import shared_task
from ledger_tasks import _append

__all__ = ["count", "deaf", "never", "quick"]

#: Longest run, s: a test that forgets it must not keep a worker.
HOLD_S = 60.0


def _steps(self, ledger, gate, every_s):
    _append(ledger, "start", self.request)
    state = self.restored or {"step": 0}
    end = time.monotonic() + HOLD_S
    try:
        while Path(gate).exists():
            assert time.monotonic() < end
            time.sleep(every_s)
            state = {"step": state["step"] + 1}
            with Path(gate + ".steps").open("a") as steps:
                steps.write(f"{state['step']}\n")
            self.checkpoint(state)
    except Exception:  # what applications do; Preempted must pass
        _append(ledger, "swallowed", self.request)
        raise
    _append(ledger, "end", self.request)
    return state["step"]


@shared_task(bind=True, name="yielding.count", gpu_count=0)
def count(self, ledger, gate, every_s=0.01):
    """Write a number and save it, every so often, while the file `gate` is there; the last one."""
    return _steps(self, ledger, gate, every_s)


@shared_task(bind=True, name="yielding.never", gpu_count=0, preemptible=False)
def never(self, ledger, gate, every_s=0.01):
    """As `count`, but not to be preempted."""
    return _steps(self, ledger, gate, every_s)


@shared_task(bind=True, name="yielding.deaf", gpu_count=0)
def deaf(self, ledger, gate):
    """Be busy while the file `gate` is there, and never ask."""
    _append(ledger, "start", self.request)
    end = time.monotonic() + HOLD_S
    while Path(gate).exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    _append(ledger, "end", self.request)


@shared_task(bind=True, name="yielding.quick", gpu_count=0)
def quick(self, ledger):
    """When it began, s since the epoch."""
    began = time.time()
    _append(ledger, "start", self.request)
    return began
