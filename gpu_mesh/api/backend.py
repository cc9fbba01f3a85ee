"""What every request works with: settings, the Celery app, and one client of Redis for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import celery
from fastapi import Depends, Request

from gpu_mesh.settings import Settings

__all__ = ["Backend", "Served"]


@dataclass(frozen=True, slots=True)
class Backend:
    """`client` may be used by many threads at once: it takes a connection of its pool for each command."""

    settings: Settings
    app: celery.Celery
    client: Any


def _backend(request: Request) -> Backend:
    found: Backend = request.app.state.backend
    return found


#: A parameter of this type gets the backend.
Served = Annotated[Backend, Depends(_backend)]
