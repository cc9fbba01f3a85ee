"""What the API says of itself: the entry, liveness, readiness."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field

from gpu_mesh import __version__
from gpu_mesh.api.backend import Served
from gpu_mesh.api.problems import responses
from gpu_mesh.services.availability import unavailable
from gpu_mesh.store import availability
from gpu_mesh.store.client import mapped_errors

__all__ = ["router"]

router = APIRouter(tags=["system"])


class Entry(BaseModel):
    """Where to go from here."""

    name: str = Field(examples=["GPU Mesh"])
    version: str = Field(examples=[__version__])
    links: dict[str, str] = Field(examples=[{"status": "/mesh/status", "openapi": "/openapi.json"}])


class Health(BaseModel):
    """The process lives."""

    status: str = Field(examples=["ok"])


@router.get("/")
async def entry() -> Entry:
    """What this is, and where its parts are."""
    links = {"openapi": "/openapi.json", "status": "/mesh/status", "submit": "/tasks/submit", "metrics": "/metrics"}
    return Entry(name="GPU Mesh", version=__version__, links=links)


@router.get("/health")
async def health() -> Health:
    """Liveness: this process answers. It says nothing of Redis or the GPUs; `/ready` does."""
    return Health(status="ok")


@router.get("/ready", responses=responses(503))
def ready(served: Served) -> Health:
    """Readiness: Redis answers, and somebody can do realtime work (SPEC R4); else 503 with Retry-After."""
    with mapped_errors(served.settings):
        outage = availability.outage(served.client)
    if outage is not None:
        raise unavailable(outage.why)
    return Health(status="ready")
