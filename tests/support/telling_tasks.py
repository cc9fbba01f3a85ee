"""A task that says how far it is while its Redis may be away."""

from __future__ import annotations

import time
from pathlib import Path

from celery import shared_task

__all__ = ["tell"]

#: Longest run, s: a test that forgets it must not keep a worker.
TELL_S = 60.0


@shared_task(bind=True, name="telling.tell")
def tell(self, gate, told):
    """Tell progress, in both ways, until the file `gate` is gone. How often is written into `told`, and returned."""
    end, count = time.monotonic() + TELL_S, 0
    while Path(gate).exists() and time.monotonic() < end:
        count += 1
        self.report_progress(count, 1000)
        self.update_state(state="WORKING", meta={"step": count})
        Path(told).write_text(str(count))
        time.sleep(0.05)
    return count
