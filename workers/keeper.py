"""Looks after what the whole mesh may take, in a thread of the control worker's parent: whether there is somebody for
realtime work (SPEC R4), and whether internal work is to wait (SPEC Q3).

As tasks of beat's, which come every few seconds, these would be half of what an idle mesh costs (SPEC H9). What calls
an application's code, to fail what waits, is a task all the same: sent to this worker only when there is something.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any

from celery import bootsteps
from celery.worker import components

from gpu_mesh.domain.queues import CONTROL_QUEUE
from gpu_mesh.engines.importing import unforked
from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.services import availability, usage, windows
from gpu_mesh.settings import Settings, settings
from gpu_mesh.store import server
from gpu_mesh.store.client import broker_error, connect

__all__ = ["FAILS", "Keeper", "Keeping"]

logger = logging.getLogger(__name__)

#: The task that fails what waits.
FAILS = "mesh.availability"
#: How often what both need is looked at, s: the more frequent one's.
LOOK_EVERY_S = availability.EVERY_S
#: Pause while Redis is away, s.
AWAY_S = 1.0
#: How long an answer may take, and a stop waits for the thread, s.
ANSWER_S, STOP_S = 2.0, 5.0


class Keeper:
    """Looks every `every_s` until it is stopped."""

    def __init__(self, app: Any, settings: Settings, *, every_s: float = LOOK_EVERY_S) -> None:
        self._app, self._settings, self._every_s = app, settings, every_s
        self._client = connect(settings, timeout_s=ANSWER_S)
        #: A connection of its own: nobody waits for another's, and a child that is forked meanwhile uses none of it.
        self._connection: Any = None
        self._usage_at = -math.inf
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def _run(self) -> None:
        self.prepare()
        while not self._stopping.is_set():
            pause_s = self._every_s
            try:
                self.look()
            except BrokerUnavailable as exc:
                # Said by the lease.
                logger.debug("not looked after: %s", exc, extra={"action": "keep"})
                pause_s = min(AWAY_S, pause_s)
            self._stopping.wait(pause_s)
        self._disconnect()
        self._client.close()

    def prepare(self) -> None:
        """Import now what a look would import, while this process may fork (engines/importing)."""
        with unforked():
            windows.zone_of(windows.own_plan(self._settings).zone)
            _ = self._app.amqp.send_task_message
            self._producer()
            self._disconnect()

    def look(self) -> None:
        """Once. Raises BrokerUnavailable; other errors are logged, one of the two does not end the other."""
        self._try(self._keep_realtime)
        if time.monotonic() - self._usage_at > usage.EVERY_S - self._every_s / 2:
            self._try(self._keep_internal)

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as exc:
            self._disconnect()
            if (error := broker_error(self._settings, exc)) is not None:
                raise error from exc
            logger.exception("not looked after", extra={"action": "keep"})

    def _keep_realtime(self) -> None:
        if availability.look(self._client, self._settings, server.now(self._client)):
            self._have_it_fail()

    def _keep_internal(self) -> None:
        usage.tick(self._client, self._settings, server.now(self._client))
        self._usage_at = time.monotonic()

    def _have_it_fail(self) -> None:
        self._app.broker_answered()
        # Without a retry: that would wait for Redis, and the next look does so anyway.
        self._app.tasks[FAILS].apply_async(producer=self._producer(), retry=False, expires=self._every_s)

    def _producer(self) -> Any:
        if self._connection is None:
            self._connection = self._app.connection_for_write()
        return self._app.amqp.Producer(self._connection, auto_declare=False)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.release()
            except Exception:
                logger.debug("a connection not closed", exc_info=True, extra={"action": "keep"})


class Keeping(bootsteps.StartStopStep):
    """Of a worker that consumes the mesh's own queue: its keeper."""

    requires = (components.Timer,)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._keeper: Keeper | None = None

    def include_if(self, worker: Any) -> bool:
        """Whether it is the control worker."""
        return CONTROL_QUEUE in worker.app.amqp.queues.consume_from

    def start(self, worker: Any) -> None:
        """Begin."""
        self._keeper = Keeper(worker.app, settings())
        self._keeper.start()

    def stop(self, worker: Any) -> None:
        """End it."""
        if self._keeper is not None:
            self._keeper.stop()

    terminate = stop
