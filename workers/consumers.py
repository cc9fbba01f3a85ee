"""The visible side of closed queues: what a worker consumes follows the gates (SPEC R3; DESIGN §7).

A queue that is closed to the worker, by a gate or by a realtime job, leaves `celery inspect active_queues`, and comes
back at its place when it opens. That is for people: the claim knows by itself what is closed, in the step in which it
takes a message. So the channel goes on asking for all queues, and no job waits until it is seen here that its queue is
open.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import select
import threading
from collections.abc import Callable, Mapping
from typing import Any

from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.store.holds import Closed, Leave

__all__ = ["NOTICES", "Consumers", "GateWatch", "Notices"]

logger = logging.getLogger(__name__)

#: How often a worker looks what is closed to it, s: one small read of Redis.
LOOK_EVERY_S = 1.0
#: How often one does that has no device and no job, s: nothing shows there but that a CPU queue is paused by hand.
IDLE_LOOK_EVERY_S = 5.0
#: A child tells that its job ends a moment before its parent lets go of the claim, s.
SETTLE_S = 0.1


class Notices:
    """A pipe from the pool children to their parent, made before the fork: "look now". It carries nothing else."""

    def __init__(self) -> None:
        self._reader = self._writer = -1

    def open(self) -> None:
        """In the parent, once; children inherit it."""
        if self._reader < 0:
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._reader, False)
            os.set_blocking(self._writer, False)

    def give(self) -> None:
        """From any process, any thread; never waits. A pipe that is full will be read anyway."""
        if self._writer >= 0:
            with contextlib.suppress(OSError):
                os.write(self._writer, b"\0")

    def wait(self, timeout_s: float) -> bool:
        """Whether there was a notice within `timeout_s`."""
        poller = select.poll()
        poller.register(self._reader, select.POLLIN)
        if not poller.poll(timeout_s * 1000):
            return False
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 4096)
        return True


#: This process's, or its parent's.
NOTICES = Notices()


class GateWatch:
    """Knows what is closed to this worker: asks `read` on a notice, and every LOOK_EVERY_S, in a thread of its own.

    While the worker `rests`, only every IDLE_LOOK_EVERY_S.

    `read` raises BrokerUnavailable while Redis is away: then what was known last holds. `leave` is called at each look,
    with what says that the worker's jobs are to yield, or None.
    """

    def __init__(
        self,
        read: Callable[[], Closed],
        notices: Notices = NOTICES,
        leave: Callable[[Leave | None], None] = lambda _: None,
        rests: Callable[[], bool] = lambda: False,
    ) -> None:
        self._read = read
        self._leave = leave
        self._rests = rests
        self._notices = notices
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gates", daemon=True)
        #: The queues that were closed at the last look.
        self.closed: frozenset[str] = frozenset()

    def start(self) -> None:
        """Begin; a child that is forked after this gives notice here."""
        self._notices.open()
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._notices.give()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        self.look()
        looks = itertools.count(1)
        while not self._stopping.is_set():
            noticed = self._notices.wait(LOOK_EVERY_S)
            if not noticed and self._rests() and next(looks) * LOOK_EVERY_S < IDLE_LOOK_EVERY_S:
                continue
            looks = itertools.count(1)
            self.look()
            if noticed and not self._stopping.wait(SETTLE_S):
                self.look()

    def look(self) -> None:
        """Ask once."""
        try:
            found = self._read()
            self.closed = found.queues
            self._leave(found.leave)
        except BrokerUnavailable as exc:
            logger.debug("gates not read: %s", exc, extra={"action": "gates"})
        except Exception:
            logger.exception("gates not read", extra={"action": "gates"})


class Consumers:
    """What the task consumer of one worker shows. Called from the event loop only, and waits for nothing."""

    def __init__(self) -> None:
        self._paused: dict[str, Any] = {}

    def reconcile(self, c: Any, closed: frozenset[str]) -> None:
        """Have the consumer `c` show what it consumes but for what is closed, in canonical order.

        What an operator cancelled meanwhile stays so.
        """
        shown, consume_from = c.task_consumer._queues, c.app.amqp.queues.consume_from
        # Not before the event loop turns and has begun to consume: what is not shown then is not begun either.
        for name in filter(c.task_consumer.consuming_from, closed & shown.keys()):
            self._paused[name] = shown.pop(name)
            logger.info("%s is closed: paused", name, extra={"action": "pause"})
        for name in closed & self._paused.keys() & consume_from.keys():
            c.app.amqp.queues.deselect(name)
        opened = self._paused.keys() - closed
        for name in opened:
            queue = self._paused.pop(name)
            if c.task_consumer.consuming_from(name):
                shown.setdefault(name, queue)
                c.app.amqp.queues.select_add(c.app.amqp.queues[name])
                logger.info("%s is open: resumed", name, extra={"action": "resume"})
        if opened:
            for queues in (shown, consume_from):
                _reorder(queues, c.app.amqp.queues)

    def leave(self, c: Any) -> None:
        """The consumer ends: the next one, of a new connection, is made of everything that this one consumes."""
        if c.task_consumer:
            self.reconcile(c, frozenset())
        self._paused.clear()


def _reorder(queues: dict[str, Any], canonical: Mapping[str, Any]) -> None:
    places = {name: place for place, name in enumerate(canonical)}
    ordered = sorted(queues.items(), key=lambda item: places.get(item[0], len(places)))
    queues.clear()
    queues.update(ordered)
