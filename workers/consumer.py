"""Celery's consumer, but back soon after a Redis that was away, and telling when its event loop is left."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from celery.worker import consumer

__all__ = ["Consumer"]

#: Pauses between tries to connect, s: the first, how much longer each, the longest. Kombu's are 2, 2 and 30.
INTERVAL_START_S, INTERVAL_STEP_S, INTERVAL_MAX_S = 0.1, 0.1, 1.0


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
        conn.ensure_connection = partial(
            conn.ensure_connection,
            interval_start=INTERVAL_START_S,
            interval_step=INTERVAL_STEP_S,
            interval_max=INTERVAL_MAX_S,
        )
        return super().ensure_connected(conn)
