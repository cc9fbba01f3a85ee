"""The FastAPI application, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from gpu_mesh import __version__
from gpu_mesh.api import problems
from gpu_mesh.api.backend import Backend
from gpu_mesh.api.metrics import Counted, Metrics
from gpu_mesh.api.routes import metrics, system
from gpu_mesh.celery import app as celery_app
from gpu_mesh.settings import Settings
from gpu_mesh.store.client import connect

__all__ = ["create"]

DESCRIPTION = """Send AI work to a company's GPUs, follow it, and look after the mesh.

Errors are `application/problem+json` and name the field, the value and the remedy. Times are seconds since the epoch,
spans are seconds, memory is in GB."""


def create(settings: Settings) -> FastAPI:
    """The API of one mesh. It connects on first use: Redis may be away when it starts."""
    celery_app.loader.import_default_modules()  # the tasks that may be submitted

    measured = Metrics(settings)

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        with connect(settings) as client, measured:
            api.state.backend = Backend(settings, celery_app, client)
            yield

    api = FastAPI(
        title="GPU Mesh",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        # Those load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    problems.install(api)
    api.state.metrics = measured
    api.add_middleware(Counted, requests=measured.requests)
    for routes in (system, metrics):
        api.include_router(routes.router)
    return api
