"""Celery's Redis result backend, which in a worker outlives a Redis that is away (DESIGN §9, SPEC S3).

How a job ended is kept until Redis hears it: stock reads the old state before it writes, and there one error makes a
job that was done a failure. How far a job is is told once: it must neither fail the job nor hold it up.
"""

from __future__ import annotations

import logging
import time
from typing import Any, ClassVar

from celery import states
from celery.backends import redis as stock
from celery.loaders.app import AppLoader
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_incrementing

from gpu_mesh.settings import settings
from gpu_mesh.store.client import broker_error

__all__ = ["Backend", "Loader", "SentinelBackend"]

logger = logging.getLogger(__name__)

#: What Redis must hear: how a run ended.
_ENDS = states.READY_STATES | {states.RETRY}
#: Pauses between two tries, s: the first, the longest.
FIRST_S, LONGEST_S = 0.1, 0.3
#: So often one of these tries is logged.
LOG_EVERY = 50
#: After something that Redis did not hear nothing is told for so long, s: each try may cost a socket timeout.
PAUSE_S = 2.0


class Backend(stock.RedisBackend):
    """redis://, rediss:// and redis+socket://."""

    #: When something may be told again, s, monotonic.
    _quiet_until = 0.0

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Subscribes to nothing: `get` does, when it waits. Stock listens to every task from its send on, also to what
        nobody asks for: results would pile up on a connection that nobody reads.
        """

    def store_result(self, task_id: str, result: Any, state: str, *rest: Any, **options: Any) -> Any:
        """As Celery's. In a worker (by its policy, workers/hooks) an end waits for Redis, what is no end is dropped."""
        store = super().store_result
        if self.retry_policy["max_retries"] is not None:
            return store(task_id, result, state, *rest, **options)
        if state in _ENDS:
            return _patiently(store, task_id, result, state, *rest, **options)
        if time.monotonic() < self._quiet_until:
            return result
        try:
            return store(task_id, result, state, *rest, **options)
        except Exception as exc:
            if (error := broker_error(settings(), exc)) is None:
                raise
            self._quiet_until = time.monotonic() + PAUSE_S
            logger.warning("%s: %s not told: %s", task_id, state, error, extra={"action": "tell"})
            return result


class SentinelBackend(Backend, stock.SentinelBackend):
    """sentinel://."""


class Loader(AppLoader):
    """Celery's own, by which the app finds our backends under the stock names."""

    override_backends: ClassVar[dict[str, str]] = {
        "redis": "gpu_mesh.transport.results:Backend",
        "rediss": "gpu_mesh.transport.results:Backend",
        "sentinel": "gpu_mesh.transport.results:SentinelBackend",
    }


def _is_away(exc: BaseException) -> bool:
    return broker_error(settings(), exc) is not None


def _log(attempt: RetryCallState) -> None:
    if attempt.attempt_number % LOG_EVERY == 1 and attempt.outcome is not None:
        said = broker_error(settings(), attempt.outcome.exception() or Exception())
        logger.warning(
            "%s: its %s waits for Redis: %s", attempt.args[0], attempt.args[2], said, extra={"action": "store"}
        )


_patiently = Retrying(
    retry=retry_if_exception(_is_away),
    wait=wait_incrementing(FIRST_S, FIRST_S, LONGEST_S),
    before_sleep=_log,
    reraise=True,
)
