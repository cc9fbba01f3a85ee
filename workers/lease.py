"""A worker's sign of life: renewed by a thread of its parent, whatever its event loop is busy with (DESIGN §6)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.settings import Settings
from gpu_mesh.store import claims
from gpu_mesh.store.client import connect, mapped_errors

__all__ = ["Lease", "reap_now"]

logger = logging.getLogger(__name__)

#: Renewals in the time that a lease holds.
RENEWALS = 5
#: How often a busy worker looks for delayed messages that are due, s.
PROMOTE_EVERY_S = 0.5
#: How long a supervisor may be held up by reaping, s.
REAP_TIMEOUT_S = 1.0


class Lease:
    """Renews the lease of `worker`, and reaps what dead workers hold.

    `on_tick` is called every PROMOTE_EVERY_S; `on_lost` when the lease had ended: what the worker held may run
    elsewhere.
    """

    def __init__(
        self, settings: Settings, worker: str, *, on_tick: Callable[[], None], on_lost: Callable[[], None]
    ) -> None:
        self.worker = worker
        self._settings = settings
        self._every_s = settings.lease_ttl_s / RENEWALS
        self._on_tick = on_tick
        self._on_lost = on_lost
        self._client = connect(settings, timeout_s=self._every_s)
        self._begun = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def start(self) -> None:
        """Begin the lease, taking back what a predecessor of the name held; then keep it.

        While Redis is away the thread goes on trying: without a lease no claim is answered.
        """
        try:
            self._begin()
        except BrokerUnavailable as exc:
            logger.warning("lease not begun: %s", exc, extra={"action": "lease"})
        self._thread.start()

    def _begin(self) -> None:
        with mapped_errors(self._settings):
            claims.reap(self._client, worker=self.worker, max_deliveries=self._settings.max_deliveries)
            claims.renew(self._client, self.worker, self._settings.lease_ttl_s, anew=True)
        self._begun = True

    def stop(self) -> None:
        """Give back what is still held and end the lease. The pool must have joined."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            with mapped_errors(self._settings):
                claims.reap(self._client, worker=self.worker, max_deliveries=self._settings.max_deliveries)
        except BrokerUnavailable as exc:
            logger.warning("lease left to run out: %s", exc, extra={"action": "lease_stop"})

    def _run(self) -> None:
        renewed = time.monotonic()
        while not self._stopping.wait(min(PROMOTE_EVERY_S, self._every_s)):
            try:
                self._on_tick()
                if time.monotonic() - renewed >= self._every_s or not self._begun:
                    renewed = time.monotonic()
                    self._renew()
            except BrokerUnavailable as exc:
                logger.warning("lease not renewed: %s", exc, extra={"action": "lease"})
            except Exception:
                logger.exception("lease not renewed", extra={"action": "lease"})

    def _renew(self) -> None:
        if not self._begun:
            self._begin()
            return
        with mapped_errors(self._settings):
            if not claims.renew(self._client, self.worker, self._settings.lease_ttl_s):
                logger.error("lease lost", extra={"action": "lease_lost"})
                self._on_lost()
                claims.renew(self._client, self.worker, self._settings.lease_ttl_s, anew=True)
            for reaped in claims.reap(self._client, max_deliveries=self._settings.max_deliveries):
                _log(reaped)


def reap_now(settings: Settings, worker: str) -> None:
    """Give back at once what a worker held that its supervisor saw die; its lease would take seconds to say so."""
    try:
        with mapped_errors(settings), connect(settings, timeout_s=REAP_TIMEOUT_S) as client:
            for reaped in claims.reap(client, worker=worker, max_deliveries=settings.max_deliveries):
                _log(reaped)
    except BrokerUnavailable as exc:
        logger.warning("%s not reaped: %s", worker, exc, extra={"action": "reap"})


def _log(reaped: claims.Reaped) -> None:
    logger.warning(
        "task %s of dead worker %s: %s", reaped.task_id, reaped.worker, reaped.outcome, extra={"action": "reap"}
    )
