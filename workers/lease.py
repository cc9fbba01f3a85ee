"""A worker's sign of life: renewed by a thread of its parent, whatever its event loop is busy with (DESIGN §6).

But not for a loop that hangs, which would neither ack nor claim again: after one TTL without a turn the lease is left
to run out. A loop that is connecting, stopping or waiting for a Redis that is away does not hang.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Protocol

from gpu_mesh.domain.availability import serves_devices
from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.services import drains, windows
from gpu_mesh.services.board import BOARD, now_ns
from gpu_mesh.settings import Settings
from gpu_mesh.store import availability, closings, leases
from gpu_mesh.store.client import connect, mapped_errors
from workers.pulse import Pulse

__all__ = ["Lease", "reap_now"]

logger = logging.getLogger(__name__)

#: Renewals in the time that a lease holds.
RENEWALS = 5
#: How often a busy worker looks for delayed messages that are due, s.
PROMOTE_EVERY_S = 0.5
#: How often the worker that tends brings windows and pauses in line with the clock, s.
RECONCILE_EVERY_S = 1.0
#: Part of the TTL at whose end the children ask Redis instead of trusting the lease.
MARGIN = 0.1
#: How long a supervisor may be held up by reaping, s.
REAP_TIMEOUT_S = 1.0


class Tick(Protocol):
    """Called now and then; `tends`: the worker is the one that promotes for all."""

    def __call__(self, *, tends: bool) -> None: ...


class Lease:
    """Renews the lease of `worker`; one worker's also reaps what dead ones hold, and keeps windows and pauses.

    `on_tick` is called every PROMOTE_EVERY_S, or with each renewal while the worker `rests`, that is, holds nothing;
    `on_lost` when the lease had ended: what the worker held may run elsewhere.
    """

    def __init__(
        self,
        settings: Settings,
        worker: str,
        *,
        pulse: Pulse,
        on_tick: Tick,
        on_lost: Callable[[], None],
        rests: Callable[[], bool] = lambda: False,
    ) -> None:
        self.worker = worker
        self._settings = settings
        self._every_s = settings.lease_ttl_s / RENEWALS
        self._pulse = pulse
        self._on_tick = on_tick
        self._on_lost = on_lost
        self._rests = rests
        self._client = connect(settings, timeout_s=self._every_s)
        self._begun = False
        #: Whether what a predecessor of the name held was taken back.
        self._inherited = False
        self._away = False
        #: Whether it is this worker that reaps and promotes for all.
        self._tends = False
        self._reconciled = -math.inf
        self._hangs = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def start(self) -> None:
        """Begin the lease, taking back what a predecessor of the name held; then keep it.

        While Redis is away the thread goes on trying: without a lease no claim is answered.
        """
        try:
            self._begin()
            self._reconcile()  # before the first claim: nobody may have been here when a window closed
        except BrokerUnavailable as exc:
            logger.warning("lease not begun: %s", exc, extra={"action": "lease"})
        self._thread.start()

    def _begin(self) -> None:
        if not self._inherited:
            with mapped_errors(self._settings):
                leases.reap(self._client, worker=self.worker, max_deliveries=self._settings.max_deliveries)
            # Once: a lease that began without our hearing of it may have claimed since.
            self._inherited = True
        self._extend(anew=True)
        self._begun = True

    def _extend(self, *, anew: bool = False) -> bool:
        """Renew, and tell the children until when they need not ask; False when the lease had ended."""
        ttl_s = self._settings.lease_ttl_s
        # Before it is sent: Redis counts from when it hears of it, which is later.
        sent = now_ns()
        with mapped_errors(self._settings):
            renewal = leases.renew(self._client, self.worker, ttl_s, anew=anew)
        self._tends = renewal is leases.Renewal.TENDS
        if renewal is leases.Renewal.ENDED:
            return False
        if anew:
            BOARD.lease_begun()
            if serves_devices(self.worker):
                with mapped_errors(self._settings):
                    availability.back(self._client)  # submits are taken again at once
        BOARD.lease_holds(sent + int(ttl_s * (1 - MARGIN) * 1e9))
        return True

    def stop(self) -> None:
        """Give back what is still held and end the lease. The pool must have joined."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            with mapped_errors(self._settings):
                leases.reap(self._client, worker=self.worker, max_deliveries=self._settings.max_deliveries)
        except BrokerUnavailable as exc:
            logger.warning("lease left to run out: %s", exc, extra={"action": "lease_stop"})
        self._client.close()

    def _run(self) -> None:
        renewed = time.monotonic()
        while not self._stopping.wait(self._pause_s()):
            try:
                self._on_tick(tends=self._tends)
                if time.monotonic() - renewed >= self._every_s or not self._begun:
                    renewed = time.monotonic()
                    self._keep()
                self._reconcile()
            except BrokerUnavailable as exc:
                self._away = True
                logger.warning("lease not renewed: %s", exc, extra={"action": "lease"})
            except Exception:
                logger.exception("lease not renewed", extra={"action": "lease"})

    def _pause_s(self) -> float:
        """Until there may be something to do: less often where it is only the lease (SPEC H9)."""
        rests = self._begun and not self._tends and self._rests()
        return self._every_s if rests else min(PROMOTE_EVERY_S, self._every_s)

    def _reconcile(self) -> None:
        """Windows, pauses and drains, whoever else sees to them: a beat that is dead keeps no queue open or closed."""
        if not self._tends or time.monotonic() - self._reconciled < RECONCILE_EVERY_S:
            return
        self._reconciled = time.monotonic()
        try:
            with mapped_errors(self._settings):
                seen = closings.read(self._client)
                windows.follow(self._client, self._settings, seen)
                drains.sweep(self._client, seen.now, seen.cordons)
        except BrokerUnavailable:
            raise
        except Exception:
            logger.exception("windows not reconciled", extra={"action": "windows"})

    def _keep(self) -> None:
        """Renew, but not for a loop that hangs."""
        still_s = self._pulse.still_s
        hangs = still_s > self._settings.lease_ttl_s and not self._away
        if hangs:
            with mapped_errors(self._settings):
                self._client.ping()  # else it waits for Redis, as we do
            if not self._hangs:
                logger.error("event loop hangs for %.1f s: lease not renewed", still_s, extra={"action": "lease"})
        else:
            self._renew()
            if self._away:
                self._pulse.excuse()
        self._away, self._hangs = False, hangs

    def _renew(self) -> None:
        if not self._begun:
            self._begin()
            return
        if not self._extend():
            logger.error("lease lost", extra={"action": "lease_lost"})
            BOARD.lease_ended()
            self._on_lost()
            self._extend(anew=True)
        if self._tends:
            with mapped_errors(self._settings):
                for reaped in leases.reap(self._client, max_deliveries=self._settings.max_deliveries):
                    _log(reaped)


def reap_now(settings: Settings, worker: str) -> None:
    """Give back at once what a worker held that its supervisor saw die; its lease would take seconds to say so."""
    try:
        with mapped_errors(settings), connect(settings, timeout_s=REAP_TIMEOUT_S) as client:
            for reaped in leases.reap(client, worker=worker, max_deliveries=settings.max_deliveries):
                _log(reaped)
    except BrokerUnavailable as exc:
        logger.warning("%s not reaped: %s", worker, exc, extra={"action": "reap"})


def _log(reaped: leases.Reaped) -> None:
    logger.warning(
        "task %s of dead worker %s: %s", reaped.task_id, reaped.worker, reaped.outcome, extra={"action": "reap"}
    )
