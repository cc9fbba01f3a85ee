"""Celery's consumer, but back soon after a Redis that was away."""

from __future__ import annotations

from functools import partial
from typing import Any

from celery.worker import consumer

__all__ = ["Consumer"]

#: Pauses between tries to connect, s: the first, how much longer each, the longest. Kombu's are 2, 2 and 30.
INTERVAL_START_S, INTERVAL_STEP_S, INTERVAL_MAX_S = 0.1, 0.1, 1.0


class Consumer(consumer.Consumer):
    """What `worker_consumer` names."""

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, however long it takes, with short pauses."""
        conn.ensure_connection = partial(
            conn.ensure_connection,
            interval_start=INTERVAL_START_S,
            interval_step=INTERVAL_STEP_S,
            interval_max=INTERVAL_MAX_S,
        )
        return super().ensure_connected(conn)
