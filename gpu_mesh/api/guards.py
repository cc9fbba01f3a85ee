"""What every request passes before a route: edge, browsers' questions, gatekeeper, bodies; from outside to inside."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from gpu_mesh.api.bodies import Bodies
from gpu_mesh.api.edge import Edge
from gpu_mesh.api.gatekeeper import Gatekeeper
from gpu_mesh.api.known_tokens import Known
from gpu_mesh.domain.tokens import Book
from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.settings import Settings
from gpu_mesh.store import tokens
from gpu_mesh.store.client import mapped_errors

__all__ = ["STATUSES", "install", "known_tokens"]

#: What a request may be answered with that never reaches its route.
STATUSES = (400, 401, 403, 408, 413, 414, 415, 429, 431, 503)


def install(api: FastAPI, settings: Settings) -> None:
    """Have every request pass them. The one that is added last is the outermost."""
    api.add_middleware(Bodies, settings=settings)
    api.add_middleware(Gatekeeper, settings=settings)
    if settings.api_origins:
        # No cookies are in use, and what a page may ask it asks with a token: headers and methods open nothing.
        api.add_middleware(CORSMiddleware, allow_origins=settings.api_origins, allow_methods=["*"], allow_headers=["*"])
    api.add_middleware(Edge, settings=settings)


def known_tokens(settings: Settings, client: Any) -> Known:
    """The tokens that Redis has, for this process."""

    def ask(used: Collection[str]) -> Book:
        with mapped_errors(settings):
            book = tokens.book(client)
        # A Redis that is full takes no marks: that must turn nobody away.
        with suppress(BrokerUnavailable), mapped_errors(settings):
            tokens.mark_used(client, used, book.now)
        return book

    return Known(ask)
