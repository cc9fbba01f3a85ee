"""Metrics for Prometheus (SPEC A4): of the mesh, and of this process."""

from __future__ import annotations

import gzip
from types import TracebackType

import prometheus_client
from prometheus_client import CollectorRegistry, Gauge, GCCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from gpu_mesh import __version__
from gpu_mesh.api.metrics.collector import MeshCollector, Nothing
from gpu_mesh.api.metrics.requests import Counted, Requests
from gpu_mesh.api.metrics.table import OWN
from gpu_mesh.settings import Settings

__all__ = ["OPEN_METRICS", "PLAIN", "Counted", "Metrics", "accepts"]

#: Media types of the two formats.
PLAIN, OPEN_METRICS = CONTENT_TYPE_PLAIN_0_0_4, openmetrics.CONTENT_TYPE_LATEST
#: Fast, and a tenth of the size.
GZIP_LEVEL = 1
# Counters of the mesh have no time of creation that we know; those of the process need none either.
prometheus_client.disable_created_metrics()


class Metrics:
    """Those of one application; a context manager, at whose end the connection to Redis is closed."""

    def __init__(self, settings: Settings) -> None:
        own = CollectorRegistry(auto_describe=False)
        self.requests = Requests(own)
        self._mesh = MeshCollector(settings)
        self._all, self._blind = _both(self._mesh, own), _both(Nothing(), own)
        about = next(row for row in OWN if row.name == "build_info")
        Gauge(about.full, about.help, about.labels, registry=own).labels(__version__).set(1)
        ProcessCollector(registry=own)
        GCCollector(registry=own)

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self._mesh.close()

    def answer(self, *, open_metrics: bool, zipped: bool, blind: bool = False) -> bytes:
        """All of them as text, of either format; `blind`: of the mesh only that nothing is known."""
        registry = self._blind if blind else self._all
        text = openmetrics.generate_latest(registry) if open_metrics else generate_latest(registry)
        return gzip.compress(text, GZIP_LEVEL) if zipped else text


def _both(mesh: Collector, own: Collector) -> CollectorRegistry:
    found = CollectorRegistry(auto_describe=False)
    found.register(mesh)
    found.register(own)
    return found


def accepts(header: str, wanted: str) -> bool:
    """Whether an `Accept` or `Accept-Encoding` header names `wanted`, and does not refuse it."""
    for part in header.lower().split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        if name == wanted:
            return not any(word.replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000") for word in parameters)
    return False
