"""Tasks that save checkpoints, and control commands by which a test does what the mesh's own services will do."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from celery import shared_task
from celery.worker.control import control_command
from celery.worker.state import active_requests
from ledger_tasks import _append
from waiting import wait_gone

__all__ = ["hang_loop", "second_time", "steps", "yield_now"]

#: Longest wait, s: a test that forgets it must not keep a worker.
HOLD_S = 60.0


@shared_task(bind=True, name="resuming.steps", gpu_count=0)
def steps(self, ledger, gate, total):
    """Save a checkpoint for each step, the last one once the file `gate` is gone. Tells the steps it began with."""
    _append(ledger, "start", self.request)
    state = self.restored or {"step": 0, "began": []}
    state["began"].append(state["step"])
    end = time.monotonic() + HOLD_S
    while state["step"] < total:
        last = state["step"] == total - 1
        if not last or not Path(gate).exists():
            state["step"] += 1
        try:
            self.checkpoint(state)
        except Exception:
            logging.getLogger(__name__).exception("what applications do; Preempted must pass")
        time.sleep(0.01)
        assert time.monotonic() < end
    _append(ledger, "end", self.request)
    return state["began"]


@shared_task(bind=True, name="resuming.second_time", gpu_count=0)
def second_time(self, retry):
    """Fail, or retry, with something saved; succeed where that is found."""
    if self.restored is None:
        self.checkpoint({"reached": 7})
        if retry:
            raise self.retry(countdown=0)
        raise ValueError("broken")
    return self.restored


@control_command(args=[("reason", str)])
def yield_now(state, reason):
    """Ask what runs here to yield."""
    return {"asked": [request.ask_to_yield(reason) for request in tuple(active_requests)]}


@control_command(args=[("gate", str)])
def hang_loop(state, gate):
    """The event loop does nothing else while the file `gate` is there."""
    wait_gone(gate, HOLD_S)
    return {"ok": True}
