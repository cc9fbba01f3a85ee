"""What both sides run."""

from __future__ import annotations

import time

from celery import shared_task


@shared_task
def started() -> float:
    """When the first line of the task ran, s since the epoch."""
    return time.time()


@shared_task(ignore_result=True)
def noop() -> None:
    """Nothing."""
