"""Asking a Redis that may be away for a moment: who waits for a task waits through a restart of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.settings import Settings
from gpu_mesh.store.client import broker_error

__all__ = ["AWAY_S", "patiently"]

T = TypeVar("T")

#: How long a Redis that is away is waited for, s; between two tries, s.
AWAY_S, RETRY_S = 30.0, 0.25


def patiently(
    settings: Settings,
    ask: Callable[[], T],
    meanwhile: Callable[[], object] = lambda: None,
    *,
    away_s: float = AWAY_S,
) -> T:
    """The answer, also where Celery's result backend asks, which has words of its own for a Redis that is away.

    `meanwhile` is called before each new try: to raise, where no more time is to be lost. Raises BrokerUnavailable when
    Redis is away for `away_s`.
    """
    until = time.monotonic() + away_s
    while True:
        try:
            return ask()
        except Exception as exc:
            error: BrokerUnavailable | None = broker_error(settings, exc)
            if error is None:
                raise
            if time.monotonic() + RETRY_S > until:
                raise error from exc
        meanwhile()
        time.sleep(RETRY_S)
