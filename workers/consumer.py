"""Celery's consumer, but back soon after a Redis that was away, and telling when its event loop is left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from celery.worker import consumer

__all__ = ["Consumer"]

#: Pauses between tries to connect, s: the first, how much longer each, the longest. Kombu's are 2, 2 and 30.
INTERVAL_START_S, INTERVAL_STEP_S, INTERVAL_MAX_S = 0.1, 0.1, 0.3
#: A try that failed is logged at most so often, s.
SAY_EVERY_S = 5.0


class Consumer(consumer.Consumer):
    """What `worker_consumer` names."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loop: Callable[..., Any] = partial(self._turn, self.loop)

    def _turn(self, loop: Callable[..., Any], *args: Any) -> None:
        """Turn the event loop; while it is left, for a new connection or for good, it beats no more."""
        try:
            loop(*args)
        finally:
            self.controller.pulse.rest()

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
