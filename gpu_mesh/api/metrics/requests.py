"""What this process answered, by route and status."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpu_mesh.api.metrics.table import OWN

__all__ = ["Counted", "Requests"]

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
#: A request that no route takes, or of a method that none has.
OTHER = "other"
#: Upper bounds, s: SPEC S1's 10, 50 and 100 ms are among them.
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_ROWS = {row.name: row for row in OWN}


class Requests:
    """The counters of one application."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._count = Counter(*_about("http_requests_total"), registry=registry)
        self._seconds = Histogram(*_about("http_request_seconds"), registry=registry, buckets=BOUNDS_S)
        self.open = Gauge(*_about("http_requests_open"), registry=registry)

    def answered(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """A request is over; `seconds` until its answer began, None where it never did."""
        known = method if method in METHODS else OTHER
        self._count.labels(known, route, str(status)).inc()
        if seconds is not None:
            self._seconds.labels(known, route).observe(seconds)


def _about(name: str) -> tuple[str, str, tuple[str, ...]]:
    row = _ROWS[name]
    return row.full, row.help, row.labels


class Counted:
    """Middleware that counts what passes."""

    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        seconds: float | None = None

        async def told(message: Message) -> None:
            nonlocal status, seconds
            if message["type"] == "http.response.start":
                status, seconds = message["status"], time.perf_counter() - began
            await send(message)

        self._requests.open.inc()
        try:
            await self._app(scope, receive, told)
        finally:
            self._requests.open.dec()
            # 0: nobody answered, for the client was gone.
            self._requests.answered(scope["method"], _route(scope), status, seconds)


def _route(scope: Scope) -> str:
    """Its template, `/tasks/{task_id}`: paths are endless."""
    route: Any = scope.get("route")
    return str(getattr(route, "path", OTHER))
