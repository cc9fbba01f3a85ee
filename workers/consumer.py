"""Celery's consumer, but back soon after a Redis that was away, with all that it had claimed."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from celery.exceptions import CPendingDeprecationWarning, WorkerShutdown, WorkerTerminate
from celery.worker import consumer
from celery.worker.state import reserved_requests, scheduled_requests, task_reserved

__all__ = ["Consumer"]

#: Pauses between tries to connect, s: the first, how much longer each, the longest. Kombu's are 2, 2 and 30.
INTERVAL_START_S, INTERVAL_STEP_S, INTERVAL_MAX_S = 0.1, 0.1, 0.3
#: A try that failed is logged at most so often, s.
SAY_EVERY_S = 5.0
#: Events of tasks are published together, so long after the first of them, s. Celery's next turn of its loop would be a
#: round trip for nearly each of a task's three, a third of what a worker does for a short task.
EVENTS_S = 0.05


class Consumer(consumer.Consumer):
    """What `worker_consumer` names."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._events_due = -math.inf
        self.loop: Callable[..., Any] = partial(self._turn, self.loop)

    def _turn(self, loop: Callable[..., Any], *args: Any) -> None:
        """Turn the event loop; while it is left, for a new connection or for good, it beats no more."""
        try:
            loop(*args)
        except (WorkerShutdown, WorkerTerminate):
            self._flush_events()
            raise
        finally:
            self.controller.pulse.rest()

    def on_send_event_buffered(self) -> None:
        """Have what is buffered published soon."""
        now = time.monotonic()
        if now >= self._events_due:
            self._events_due = now + EVENTS_S
            self.hub.call_later(EVENTS_S, self._flush_events)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """As Celery's, without its word that running jobs will be delivered again: here they are not."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CPendingDeprecationWarning)
            super().on_connection_error_after_connected(exc)

    def on_close(self) -> None:
        """A connection was lost. Celery forgets what no child has begun, for it is delivered again; claims are not.

        What the pool has stays there (workers/prefork); what waited for its time or a rate limit is handed back.
        """
        reserved = set(reserved_requests)
        waiting = {request for bucket in self.task_buckets.values() if bucket for request, _ in bucket.contents}
        waiting |= set(scheduled_requests)
        super().on_close()
        for request in reserved - waiting:
            task_reserved(request)
        for request in waiting:
            self.controller.claimer.hand_back(request.message.delivery_tag, counts=False)

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, however long it takes, with short pauses."""
        ensure, said_at = conn.ensure_connection, -math.inf

        def soon(errback: Callable[[Exception, float], None], *args: Any, **options: Any) -> Any:
            def say(exc: Exception, interval: float) -> None:
                nonlocal said_at
                if time.monotonic() - said_at >= SAY_EVERY_S:
                    said_at = time.monotonic()
                    errback(exc, interval)

            intervals = {
                "interval_start": INTERVAL_START_S,
                "interval_step": INTERVAL_STEP_S,
                "interval_max": INTERVAL_MAX_S,
            }
            return ensure(say, *args, **options, **intervals)

        conn.ensure_connection = soon
        return super().ensure_connected(conn)
