"""The FastAPI application, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from anyio import to_thread
from fastapi import FastAPI

from gpu_mesh import __version__
from gpu_mesh.api import guards, problems
from gpu_mesh.api.backend import Backend
from gpu_mesh.api.events.live import living
from gpu_mesh.api.metrics import Counted, Metrics
from gpu_mesh.api.routes import alerts, events, mesh, metrics, queues, stats, submitting, system, task_lists, tasks
from gpu_mesh.api.waiting import waiter
from gpu_mesh.celery import app as celery_app
from gpu_mesh.settings import Settings
from gpu_mesh.store.client import connect

__all__ = ["create"]

DESCRIPTION = """Send AI work to a company's GPUs, follow it, and look after the mesh.

Errors are `application/problem+json` and name the field, the value and the remedy. Times are seconds since the epoch,
spans are seconds, memory is in GB."""

#: Threads that talk to Redis. Of more, each waits longer for the interpreter than for Redis: with the usual 40 a burst
#: on an API that has just begun took three times as long.
THREADS = 16

TAGS = {
    "system": "The API itself.",
    "tasks": "Sending work, following it, taking it back.",
    "mesh": "Nodes and devices.",
    "queues": "How full they are, and pausing them.",
    "alerts": "What operators are told.",
    "events": "What happens, as it happens: server-sent events.",
    "statistics": "What ended, how long it took, what it cost.",
}


class _Api(FastAPI):
    """Its document has the schemas that no model of a route brings in."""

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        document["components"]["schemas"] |= problems.schemas()
        return document


def create(settings: Settings) -> FastAPI:
    """The API of one mesh. It connects on first use: Redis may be away when it starts."""
    celery_app.loader.import_default_modules()  # the tasks that may be submitted

    measured = Metrics(settings)

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        with connect(settings) as client, measured:
            api.state.backend = Backend(settings, celery_app, client)
            api.state.known = guards.known_tokens(settings, client)
            with waiter(api.state.backend) as api.state.waiter:
                async with living(api, api.state.backend):
                    yield

    api = _Api(
        title="GPU Mesh",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        # Those load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        # Behind a proxy that speaks TLS it would send tokens on in the clear.
        redirect_slashes=False,
        openapi_tags=[{"name": name, "description": words} for name, words in TAGS.items()],
        # Short names of operations, for those who generate a client.
        generate_unique_id_function=lambda route: route.name,
    )
    problems.install(api)
    guards.install(api, settings)
    api.state.metrics = measured
    # Outermost: what the guards refuse is counted too.
    api.add_middleware(Counted, requests=measured.requests)
    for routes in (system, submitting, task_lists, tasks, mesh, queues, alerts, stats, events, metrics):
        api.include_router(routes.router, responses=problems.responses(*guards.STATUSES))
    return api
