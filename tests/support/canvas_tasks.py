"""Tasks for what Celery's canvas and retries promise."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from celery import group, shared_task
from sample_tasks import add, total
from waiting import wait_gone

#: Longest wait of a held task, s: a test that forgets it must not keep a worker.
HOLD_S = 60.0


@shared_task(bind=True)
def travel(self, trail=()):
    """`trail`, and how this run came: its queue and wire priority."""
    delivery = self.request.delivery_info
    return [*trail, [delivery["routing_key"], delivery["priority"]]]


@shared_task(bind=True, queue="customer", memory_gb=30)
def heavy(self, value=None):
    return self.request.hostname


@shared_task(bind=True)
def at(self):
    """Where this run is."""
    return self.request.hostname


@shared_task
def write(value, path):
    Path(path).write_text(str(value))


@shared_task
def hold_and_send(path, sent):
    """Be busy until `path` is gone, then send a task of our own, which writes to `sent`."""
    Path(path).touch()
    wait_gone(path, HOLD_S)
    write.delay("sent", sent)
    return "done"


@shared_task
def note_error(request, error, traceback, path):
    Path(path).write_text(f"{request.id} {type(error).__name__}: {error}")


@shared_task(bind=True, autoretry_for=(ConnectionError,), default_retry_delay=0, max_retries=3)
def unstable(self, succeed_at):
    if self.request.retries < succeed_at:
        raise ConnectionError("not yet")
    return self.request.retries


@shared_task
def now():
    return time.time()


@shared_task
def idle(seconds):
    """Be busy for so long, unless ended before."""
    threading.Event().wait(seconds)


@shared_task(bind=True)
def swap(self, x, y):
    """Another task in its place."""
    return self.replace(add.s(x, y))


@shared_task(bind=True)
def swap_for_group(self, numbers):
    return self.replace(group(add.s(number, 1) for number in numbers) | total.s())
