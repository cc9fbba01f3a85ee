"""Bootsteps: what makes a Celery worker of this app claim instead of pop."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from celery import bootsteps
from celery.concurrency import solo
from celery.signals import task_received, worker_shutting_down
from celery.worker import components
from celery.worker.state import reserved_requests

from gpu_mesh.services import engine_health
from gpu_mesh.services.board import BOARD
from gpu_mesh.services.claimer import Claimer
from gpu_mesh.services.placement import own_device
from gpu_mesh.services.preemption import Ear
from gpu_mesh.services.vitals import Vitals
from gpu_mesh.settings import settings
from gpu_mesh.transport import claim_with
from workers.consumers import Consumers, GateWatch
from workers.engine_watch import EngineWatch
from workers.lease import Lease
from workers.leaving import Leaving
from workers.orphans import Orphans
from workers.preemption import Preemption
from workers.pulse import Pulse
from workers.request import MeshRequest
from workers.sampler import Sampler
from workers.stopping import STOP_REASON, StopLimit, interrupt_all

__all__ = ["Claiming", "Leasing"]

logger = logging.getLogger(__name__)

#: How often the pool looks after its children, and the event loop beats, s, while it has jobs and while it has none;
#: Celery's own 5 s would leave a killed job lying.
WATCH_EVERY_S, IDLE_WATCH_EVERY_S = 0.1, 1.0
#: And one without a device while it has none, in parts of the lease, which needs the beat: a job that comes hurries it.
RESTING_WATCH_TTL = 0.25


class Leasing(bootsteps.StartStopStep):
    """Of the worker: its claimer and its lease, from before the first claim to after the pool has joined."""

    requires = (components.Timer,)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._lease: Lease | None = None
        self._limit: StopLimit | None = None
        self._watch: EngineWatch | None = None
        self._preemption: Preemption | None = None

    def start(self, worker: Any) -> None:
        """Begin the lease."""
        current = settings()
        BOARD.take()
        worker.pulse = Pulse()
        worker.orphans = Orphans()
        worker.sampler = Sampler(current, worker.hostname, Vitals(current, worker.hostname, own_device()))
        worker.sampler.start()
        worker.claimer = Claimer(current, worker.hostname, own_device(), held=worker.sampler.held_gb)
        rests = partial(_rests, own_device() is not None)
        worker.gates = GateWatch(worker.claimer.closed, leave=Leaving(worker).look, rests=rests)
        worker.gates.start()
        if (device := own_device()) is not None:
            self._watch = EngineWatch(lambda: worker.gates.closed, partial(engine_health.mend, device, current))
            self._watch.start()
        self._limit = StopLimit(current.stop_timeout_s, partial(interrupt_all, worker, STOP_REASON))
        self._limit.start()
        worker_shutting_down.connect(self._on_signal)
        ear = Ear(current, worker.hostname, own_device())
        self._preemption = Preemption(worker, ear, current.preempt_after_s)
        self._preemption.start()
        self._lease = Lease(
            current,
            worker.hostname,
            pulse=worker.pulse,
            on_tick=worker.claimer.tick,
            on_lost=lambda: _drop_jobs(worker),
            rests=lambda: not worker.claimer.held,
        )
        self._lease.start()

    def _on_signal(self, how: str = "", **_: Any) -> None:
        # The loop may be busy: jobs hear of it at once.
        if how == "Warm" and self._limit is not None:
            self._limit.begin()

    def close(self, worker: Any) -> None:
        """A stop begins, whatever caused it: no claim any more, jobs are asked to yield."""
        if self._limit is not None:
            worker.pulse.end()
            self._limit.begin()

    def stop(self, worker: Any) -> None:
        """Give back what was not done, and end the lease. The pool has joined: requiring this step, it stops before."""
        if self._lease is None or self._limit is None:
            return
        worker_shutting_down.disconnect(self._on_signal)
        self._limit.end()
        worker.sampler.stop()
        if self._watch is not None:
            self._watch.stop()
        if self._preemption is not None:
            self._preemption.stop()
        worker.orphans.look(())
        worker.claimer.flush()
        for tag in worker.claimer.held:
            # An operator's stop is not the message's fault.
            worker.claimer.hand_back(tag, counts=False)
        self._lease.stop()
        worker.gates.stop()
        BOARD.take()

    terminate = stop


# Celery has no other word for "after": the claims may only be given back when no job runs any more.
components.Pool.requires = (*components.Pool.requires, Leasing)


class Claiming(bootsteps.StartStopStep):
    """Of the consumer: marks the task consumer's channel, anew after each reconnect."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        self._watch: Any = None
        self._hurries = False
        self._consumers = Consumers()

    def start(self, c: Any) -> None:
        """Have the channel claim, the pool notice a dead child at once, and the consumer follow the gates."""
        claim_with(c.task_consumer.channel, c.controller.claimer, c.pool.num_processes)
        c.on_decode_error = _reject_unreadable
        if c.hub is not None:
            self._look_in(c, WATCH_EVERY_S)
            task_received.connect(self._hurry)
            if not isinstance(c.pool, solo.TaskPool):
                c.controller.orphans.adopt()
            _beat(c)  # the loop, which turns next, may hang before the timer's first time

    def stop(self, c: Any) -> None:
        """Stop watching: the connection is gone, the next start watches again."""
        c.controller.pulse.rest()
        task_received.disconnect(self._hurry)
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._consumers.leave(c)

    def _look_in(self, c: Any, seconds: float) -> None:
        self._hurries = seconds == WATCH_EVERY_S
        self._watch = c.hub.call_later(seconds, self._look, c)

    def _hurry(self, sender: Any = None, **_: Any) -> None:
        """A job came to the worker, whose consumer is the sender."""
        if self._watch is not None and not self._hurries:
            self._watch.cancel()
            self._look_in(sender, WATCH_EVERY_S)

    def _look(self, c: Any) -> None:
        try:
            _look(c)
            self._consumers.reconcile(c, c.controller.gates.closed)
        finally:
            self._look_in(c, WATCH_EVERY_S if reserved_requests else _idle_watch_s())


def _rests(has_device: bool) -> bool:
    return not has_device and not reserved_requests


def _idle_watch_s() -> float:
    if own_device() is not None:
        return IDLE_WATCH_EVERY_S
    return max(IDLE_WATCH_EVERY_S, settings().lease_ttl_s * RESTING_WATCH_TTL)


def _beat(c: Any) -> None:
    # A solo pool runs its jobs in the loop, which may then stand still for as long as they take.
    if not isinstance(c.pool, solo.TaskPool):
        c.controller.pulse.beat()


def _look(c: Any) -> None:
    _beat(c)
    try:
        c.pool.maintain_pool()
    except StopIteration:
        # A child died whose pipes the pool has not let go of yet: it is replaced at the next look.
        logger.info("a child is not replaced yet", extra={"action": "maintain_pool"})
    if not isinstance(c.pool, solo.TaskPool):
        c.controller.orphans.look([child.pid for child in c.pool._pool._pool])


def _drop_jobs(worker: Any) -> None:
    """What runs is another's by now: end it before anything new is claimed."""
    worker.claimer.forget()
    for request in tuple(reserved_requests):
        if isinstance(request, MeshRequest):
            request.drop(worker.pool)
        else:
            request.terminate(worker.pool, signal="SIGKILL")


def _reject_unreadable(message: Any, exc: Exception) -> None:
    """Celery acks a message whose body cannot be decoded, and so loses it; rejected, it goes to the dead letters."""
    logger.error("message %s cannot be decoded: %s", message.delivery_tag, exc, extra={"action": "bury"})
    message.reject()
