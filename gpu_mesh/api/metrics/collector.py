"""The mesh as Prometheus reads it: from Redis at the scrape, so that all APIs of a mesh agree (SPEC A4)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gpu_mesh.api.metrics import control, devices, queues
from gpu_mesh.api.metrics.table import Families
from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.services.lookup import known_queues
from gpu_mesh.settings import Settings
from gpu_mesh.store import scrape
from gpu_mesh.store.client import connect, mapped_errors

__all__ = ["KEPT_S", "TIMEOUT_S", "MeshCollector", "Nothing"]

logger = logging.getLogger(__name__)

#: How long a reading is shared by those who ask, s.
KEPT_S = 1.0
#: How long one answer of Redis may take, s: Prometheus waits for ten in all.
TIMEOUT_S = 2.0


class Nothing(Collector):
    """What is told of the mesh where it cannot be read."""

    def collect(self) -> Iterable[Metric]:
        """`gpumesh_up 0`."""
        into = Families()
        into.put("up", 0.0)
        return into.all()


class MeshCollector(Collector):
    """Reads it for whoever asks, once for all who ask at the same time. Times come from `clock`, s."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._client: Any = None
        self._lock = threading.Lock()
        self._kept: tuple[float, list[Metric]] | None = None
        self._away = False

    def collect(self) -> Iterable[Metric]:
        """Never raises for a Redis that is away: then `gpumesh_up` is 0, and nothing else is told of the mesh."""
        with self._lock:
            if self._kept is None or self._clock() - self._kept[0] >= KEPT_S:
                found = self._read()
                # From its end: those who waited for it meanwhile get it.
                self._kept = self._clock(), found
            return self._kept[1]

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that being registered reads nothing."""
        return []

    def close(self) -> None:
        """End the connection."""
        with self._lock:
            if self._client is not None:
                self._client.close()
            self._client = self._kept = None

    def _read(self) -> list[Metric]:
        into, began = Families(), self._clock()
        try:
            with mapped_errors(self._settings):
                if self._client is None:
                    self._client = connect(self._settings, timeout_s=TIMEOUT_S)
                seen = scrape.read(self._client, known_queues(self._settings))
        except BrokerUnavailable as exc:
            if not self._away:
                logger.warning("metrics of the mesh are missing: %s", exc, extra={"action": "metrics"})
            self._away = True
            return list(Nothing().collect())
        self._away = False
        into.put("up", 1.0)
        queues.measure(into, seen)
        devices.measure(into, seen, self._settings.node_ttl_s)
        control.measure(into, seen, self._settings)
        into.put("read_seconds", self._clock() - began)
        return into.all()
