"""Metrics for Prometheus (SPEC A4)."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from gpu_mesh.api.access import Reader
from gpu_mesh.api.gatekeeper import BLIND
from gpu_mesh.api.metrics import OPEN_METRICS, PLAIN, Metrics, accepts

__all__ = ["router"]

router = APIRouter(tags=["system"])

_TEXT = {"schema": {"type": "string"}}


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "description": "As docs/metrics.md has them; without Redis `gpumesh_up 0` and those of the process",
            "content": {"text/plain": _TEXT, "application/openmetrics-text": _TEXT},
        }
    },
)
def metrics(caller: Reader, request: Request) -> Response:
    """What Prometheus scrapes: the mesh, read from Redis now, and this process."""
    kept: Metrics = request.app.state.metrics
    open_metrics = accepts(request.headers.get("accept", ""), "application/openmetrics-text")
    zipped = accepts(request.headers.get("accept-encoding", ""), "gzip")
    headers = {"Vary": "Accept, Accept-Encoding"}
    if zipped:
        headers["Content-Encoding"] = "gzip"
    body = kept.answer(open_metrics=open_metrics, zipped=zipped, blind=BLIND in request.scope)
    return Response(body, media_type=OPEN_METRICS if open_metrics else PLAIN, headers=headers)
