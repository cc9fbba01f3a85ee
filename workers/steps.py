"""Bootsteps: what makes a Celery worker of this app claim instead of pop."""

from __future__ import annotations

import logging
from typing import Any

from celery import bootsteps
from celery.worker import components
from celery.worker.state import active_requests

from gpu_mesh.services.claimer import Claimer
from gpu_mesh.services.placement import own_device
from gpu_mesh.settings import settings
from gpu_mesh.transport import claim_with
from workers.lease import Lease

__all__ = ["Claiming", "Leasing"]

logger = logging.getLogger(__name__)

#: How often the pool looks after its children, s; Celery's own 5 s would leave a killed job lying.
WATCH_EVERY_S = 0.2


class Leasing(bootsteps.StartStopStep):
    """Of the worker: its claimer and its lease, from before the first claim to after the pool has joined."""

    requires = (components.Timer,)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._lease: Lease | None = None

    def start(self, worker: Any) -> None:
        """Begin the lease."""
        worker.claimer = Claimer(settings(), worker.hostname, own_device())
        self._lease = Lease(
            settings(), worker.hostname, on_tick=worker.claimer.tick, on_lost=lambda: _drop_jobs(worker)
        )
        self._lease.start()

    def stop(self, worker: Any) -> None:
        """End it. The pool has joined: it requires this step, so it stops before."""
        if self._lease is not None:
            worker.claimer.flush()
            self._lease.stop()

    terminate = stop


# Celery has no other word for "after": the claims may only be given back when no job runs any more.
components.Pool.requires = (*components.Pool.requires, Leasing)


class Claiming(bootsteps.StartStopStep):
    """Of the consumer: marks the task consumer's channel, anew after each reconnect."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        self._watch: Any = None

    def start(self, c: Any) -> None:
        """Have the channel claim, and the pool notice a dead child at once."""
        claim_with(c.task_consumer.channel, c.controller.claimer, c.pool.num_processes)
        c.on_decode_error = _reject_unreadable
        if c.hub is not None:
            self._watch = c.hub.call_repeatedly(WATCH_EVERY_S, c.pool.maintain_pool)

    def stop(self, c: Any) -> None:
        """Stop watching: the connection is gone, the next start watches again."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None


def _drop_jobs(worker: Any) -> None:
    """What runs is another's by now: end it before anything new is claimed."""
    worker.claimer.forget()
    for request in tuple(active_requests):
        request.terminate(worker.pool, signal="SIGKILL")


def _reject_unreadable(message: Any, exc: Exception) -> None:
    """Celery acks a message whose body cannot be decoded, and so loses it; rejected, it goes to the dead letters."""
    logger.error("message %s cannot be decoded: %s", message.delivery_tag, exc, extra={"action": "bury"})
    message.reject()
