"""An application's tasks, as the workers of the tests load them."""

from __future__ import annotations

import os
import time
from pathlib import Path

from celery import shared_task


@shared_task
def add(x, y):
    return x + y


@shared_task
def total(numbers):
    return sum(numbers)


@shared_task
def fail(message):
    raise ValueError(message)


@shared_task(bind=True, max_retries=3)
def flaky(self, succeed_at):
    """Fails until its `succeed_at`-th retry; returns how it travelled."""
    if self.request.retries < succeed_at:
        raise self.retry(countdown=0, exc=ValueError("not yet"))
    return {
        "retries": self.request.retries,
        "queue": self.request.delivery_info["routing_key"],
        "wire_priority": self.request.delivery_info["priority"],
        "needs": self.requirements.to_dict(),
    }


@shared_task(bind=True, queue="customer", memory_gb=4, labels={})
def where(self):
    return {
        "worker": self.request.hostname,
        "queue": self.request.delivery_info["routing_key"],
        "pid": os.getpid(),
        "parent": os.getppid(),
        "cuda": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }


@shared_task(ignore_result=True)
def note(path, text):
    """Append a line to a file: what a test sees of a task without a result."""
    with Path(path).open("a") as out:
        out.write(text + "\n")


@shared_task(bind=True)
def hold(self, path, seconds=30.0):
    """Write our pid to `path`, then stay busy until `path` is gone or the time is over."""
    Path(path).write_text(str(os.getpid()))
    end = time.monotonic() + seconds
    while Path(path).exists() and time.monotonic() < end:
        time.sleep(0.02)
    return self.request.hostname
