"""Takes a worker's report (services/vitals) now and then, in a thread of its parent, and holds the latest.

Whoever asks is answered at once, whatever the event loop, a driver or an engine is busy with.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from gpu_mesh.devices.strangers import step_gb
from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.services.vitals import Vitals
from gpu_mesh.settings import Settings
from gpu_mesh.store import held
from gpu_mesh.store.client import connect, mapped_errors

__all__ = ["Sampler"]

logger = logging.getLogger(__name__)

#: Reports between two checks of the mesh: a check finds one that is no older than half an interval.
REPORTS_PER_CHECK = 2
#: An older report is taken anew when somebody asks, s, but not more often than that.
OLD_S = 5.0
#: How often others are told what strangers hold, in reports, before they forget it.
REMEMBERED = 3
#: How long Redis may take to hear of it, s.
TELL_S = 1.0


class Sampler:
    """Calls `vitals.take` every `health_every_s` / 2, and sooner when an old report was asked for."""

    def __init__(
        self,
        settings: Settings,
        worker: str,
        vitals: Vitals,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._worker = worker
        self._vitals = vitals
        self._clock = clock
        self._every_s = settings.health_every_s / REPORTS_PER_CHECK
        self._latest: dict[str, Any] | None = None
        self._taken_at = clock()
        self._held_gb = 0.0
        self._told = False
        self._client = connect(settings, timeout_s=TELL_S, retries=0)
        self._stopping = False
        self._wanted = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vitals", daemon=True)

    def start(self) -> None:
        """Begin, with a first report."""
        self._thread.start()

    def stop(self) -> None:
        """End; a report that is being taken is not waited for."""
        self._stopping = True
        self._wanted.set()
        self._vitals.close()

    def held_gb(self) -> float:
        """What strangers hold of the device, in steps."""
        return self._held_gb

    def report(self) -> dict[str, Any]:
        """The latest report with its age; before the first all is null. Never waits."""
        latest, age_s = self._latest, self._clock() - self._taken_at
        if age_s > min(OLD_S, self._every_s):
            self._wanted.set()
        empty = {"worker": self._worker, "taken_at": None, "system": None, "device": None, "held_gb": None}
        return {**(latest or {**empty, "engines": []}), "age_s": None if latest is None else round(age_s, 2)}

    def _run(self) -> None:
        while not self._stopping:
            self._wanted.clear()
            try:
                self._look()
            except Exception:
                logger.exception("no report", extra={"action": "vitals"})
            self._wanted.wait(self._every_s)

    def _look(self) -> None:
        began = self._clock()
        report = self._vitals.take()
        self._latest, self._taken_at = report, began
        before, self._held_gb = self._held_gb, step_gb(report["held_gb"], self._held_gb)
        if self._held_gb or before or self._told:
            self._tell()

    def _tell(self) -> None:
        """Others judge by it too, who may run on this device."""
        ttl_s = REMEMBERED * self._every_s + TELL_S
        try:
            with mapped_errors(self._settings):
                held.write(self._client, self._worker, self._held_gb, ttl_s)
            self._told = self._held_gb > 0
        except BrokerUnavailable as exc:
            logger.debug("strangers not told of: %s", exc, extra={"action": "vitals"})
