"""A task that ends in the way it is told to, once a file is gone; its runs are in the ledger of ledger_tasks."""

from __future__ import annotations

from celery import shared_task
from celery.exceptions import Reject
from ledger_tasks import HOLD_S, _append, hold, limited, poison, work
from waiting import wait_gone

__all__ = ["end", "hold", "limited", "poison", "work"]


@shared_task(bind=True, name="ending.end", max_retries=1)
def end(self, ledger, gate, how):
    """Be busy until the file `gate` is gone, then `return`, `raise`, `retry` or `reject`."""
    _append(ledger, "start", self.request)
    wait_gone(gate, HOLD_S)
    _append(ledger, "end", self.request)
    if how == "raise":
        raise ValueError("as it was told")
    if how == "retry" and self.request.retries == 0:
        raise self.retry(countdown=0.2)
    if how == "reject":
        raise Reject("as it was told", requeue=False)
