"""Sends alerts to their channels: a thread of the control worker's parent, and nobody waits for it (DESIGN §8).

apprise runs in a process of its own (services/messenger) that is killed at its deadline; here is only the waiting.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any
from uuid import uuid4

from celery import bootsteps
from celery.worker import components

from gpu_mesh.domain.channels import Channel
from gpu_mesh.domain.queues import CONTROL_QUEUE
from gpu_mesh.errors import BrokerUnavailable, InvalidSetting
from gpu_mesh.services import announcing
from gpu_mesh.services.channels import Messenger, configured
from gpu_mesh.settings import Settings, settings
from gpu_mesh.store import outbox
from gpu_mesh.store.client import connect, mapped_errors

__all__ = ["Announcer", "Announcing"]

logger = logging.getLogger(__name__)

#: How often the outbox is looked at, s.
LOOK_EVERY_S = 2.0
#: How often it is said that somebody has channels, s.
ANNOUNCE_EVERY_S = 600.0
#: How long a stop waits for the thread, s: what it sends is ended.
STOP_S = 5.0


class Announcer:
    """Sends what comes into the outbox through these channels. Of several, in one mesh, one sends at a time."""

    def __init__(
        self,
        settings: Settings,
        channels: list[Channel],
        *,
        messenger: Messenger | None = None,
        every_s: float = LOOK_EVERY_S,
        lock_s: float = announcing.LOCK_S,
    ) -> None:
        self._settings, self._channels = settings, channels
        self._messenger = messenger or Messenger()
        self._every_s, self._lock_s = every_s, lock_s
        self._who = f"{settings.node_name}/{uuid4().hex[:8]}"
        self._announced_at = float("-inf")
        self._away = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End: what is being sent stays in the outbox."""
        self._stopping.set()
        self._messenger.stop()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def _run(self) -> None:
        with connect(self._settings) as client:
            while not self._stopping.is_set():
                try:
                    with mapped_errors(self._settings):
                        self._look(client)
                    self._away = False
                except BrokerUnavailable as exc:
                    # Told once an outage: the lease says so too.
                    level = logging.DEBUG if self._away else logging.WARNING
                    logger.log(level, "alerts are not sent: %s", exc, extra={"action": "announce"})
                    self._away = True
                except Exception:
                    logger.exception("alerts are not sent", extra={"action": "announce"})
                self._stopping.wait(self._every_s)

    def _look(self, client: Any) -> None:
        # A Redis that lost its data is told at once, or what is posted until then would go to nobody.
        if time.monotonic() - self._announced_at > ANNOUNCE_EVERY_S or not outbox.is_announced(client):
            outbox.announce(client)
            self._announced_at = time.monotonic()
        announcing.tick(client, self._settings, self._channels, self._messenger.send, self._who, lock_s=self._lock_s)


class Announcing(bootsteps.StartStopStep):
    """Of a worker that consumes the mesh's own queue: its announcer, where there are channels."""

    requires = (components.Timer,)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._announcer: Announcer | None = None

    def include_if(self, worker: Any) -> bool:
        """Whether it is the control worker."""
        return CONTROL_QUEUE in worker.app.amqp.queues.consume_from

    def start(self, worker: Any) -> None:
        """Begin; channels that cannot be read are refused before, by whoever starts this process."""
        try:
            channels = configured(settings())
        except InvalidSetting as exc:
            logger.error("alerts go to the log alone: %s", exc, extra={"action": "announce"})
            return
        if channels:
            self._announcer = Announcer(settings(), channels)
            self._announcer.start()
            names = ", ".join(channel.label for channel in channels)
            logger.info("alerts go to %s", names, extra={"action": "announce"})

    def stop(self, worker: Any) -> None:
        """End it."""
        if self._announcer is not None:
            self._announcer.stop()

    terminate = stop
