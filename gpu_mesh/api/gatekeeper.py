"""Lets callers in before anything of their request is read: by token, or as `local` where none is needed."""

from __future__ import annotations

import ipaddress
import logging
import math
import time
from collections.abc import Awaitable, Callable
from functools import partial
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from gpu_mesh.api.access import LOCAL_CALLER, OPEN_PATHS, REALM, Caller, let_in
from gpu_mesh.api.audit import watched
from gpu_mesh.api.known_tokens import Known
from gpu_mesh.api.problems import Refused
from gpu_mesh.api.refusing import header, refuse
from gpu_mesh.domain.rates import Rates
from gpu_mesh.domain.tokens import Book, known
from gpu_mesh.errors import VALUE_SHOWN, BrokerUnavailable, MeshError
from gpu_mesh.services.listening import is_loopback
from gpu_mesh.settings import Settings

__all__ = ["BLIND", "FAILED_AT_ONCE", "Gatekeeper"]

logger = logging.getLogger(__name__)

#: What an address may fail: so often a second, and so often at once. Good tokens are let in all the same.
FAILED_PER_S, FAILED_AT_ONCE = 1.0, 20.0
#: A path that is answered while tokens cannot be checked; and what its scope then holds: it tells nothing of the mesh.
BLIND_PATH, BLIND = "/metrics", "blind"
#: A burst of one token, s of its rate.
BURST_S = 2.0


class Gatekeeper:
    """Middleware. The app's state holds `known`, see known_tokens.py."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._elsewhere = not is_loopback(settings.api_listen)
        self._rates = Rates(settings.api_rate, settings.api_rate * BURST_S)
        self._failed = Rates(FAILED_PER_S, FAILED_AT_ONCE)
        self._unlogged = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer it."""
        if scope["type"] == "http":
            try:
                found = await self._let_in(scope)
            except (Refused, MeshError) as exc:
                await refuse(scope, receive, send, exc)
                return
            if found is not None:
                let_in(scope, *found)
                send = watched(scope, found[0], send)
        await self._app(scope, receive, send)

    async def _let_in(self, scope: Scope) -> tuple[Caller, Callable[[], Awaitable[bool]]] | None:
        if scope["path"] in OPEN_PATHS:
            self._count(_address(scope))
            return None
        tokens: Known = scope["app"].state.known
        book, now = await self._book(scope, tokens)
        if not self._elsewhere and not tokens.is_closed:
            _check_host(scope)
            self._count(LOCAL_CALLER.name)
            return LOCAL_CALLER, partial(_is_still_in, tokens, None)
        if (shown := _shown(scope)) is None:
            raise self._refused(scope, "needs a token: `Authorization: Bearer gpumesh_…`", REALM)
        token = known(book.tokens, shown, now)
        if token is None:
            raise self._refused(scope, "this token is not known, revoked or over", f'{REALM}, error="invalid_token"')
        self._count(token.id)
        tokens.used(token.id)
        return Caller(token.name, token.roles), partial(_is_still_in, tokens, token.id)

    async def _book(self, scope: Scope, tokens: Known) -> tuple[Book, float]:
        try:
            return await tokens.book()
        except BrokerUnavailable:
            last = tokens.last()
            # Who watches this process must hear that Redis is away; whoever was let in before it went.
            if scope["path"] != BLIND_PATH or (last is None and (self._elsewhere or tokens.is_closed)):
                raise
            scope[BLIND] = True
            return last or (Book({}, None, 0.0), 0.0)

    def _count(self, key: str) -> None:
        if wait_s := self._rates.take(key, time.monotonic()):
            raise _too_many(wait_s, "more requests than GPU_MESH_API_RATE allows")

    def _refused(self, scope: Scope, why: str, challenge: str) -> Refused:
        address = _address(scope)
        if wait_s := self._failed.take(address, time.monotonic()):
            self._unlogged += 1
            return _too_many(wait_s, "too many requests without a good token")
        unlogged, self._unlogged = self._unlogged, 0
        logger.warning(
            "refused %s %s from %s: %s%s",
            *(scope["method"], ascii(scope["path"])[:VALUE_SHOWN], address, why),
            f"; {unlogged} more were not logged" if unlogged else "",
            extra={"action": "refuse", "address": address},
        )
        detail = f"{why}; `gpu-mesh token create NAME --role …` makes one"
        return Refused(401, "unauthorized", detail, headers={"WWW-Authenticate": challenge})


async def _is_still_in(tokens: Known, token_id: str | None) -> bool:
    """Whether that token is good still; None: whether none is needed. While Redis is away nobody is turned out."""
    try:
        book, now = await tokens.book()
    except BrokerUnavailable:
        return True
    if token_id is None:
        return not tokens.is_closed
    token = book.tokens.get(token_id)
    return token is not None and not token.is_over(now)


def _too_many(wait_s: float, why: str) -> Refused:
    after = str(max(1, math.ceil(wait_s)))
    return Refused(429, "too-many-requests", f"{why}; try again in {after} s", headers={"Retry-After": after})


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def _shown(scope: Scope) -> str | None:
    """The token; None where there is none, or more than one."""
    given = header(scope, b"authorization")
    scheme, _, token = given[0].decode("latin-1").partition(" ") if len(given) == 1 else ("", "", "")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def _check_host(scope: Scope) -> None:
    """A page elsewhere may call this machine by a name of its own (DNS rebinding): then its browser says that name."""
    for host in header(scope, b"host"):
        if not _is_ours(host.decode("latin-1")):
            detail = "this name is not this machine's: without a token ask 127.0.0.1 or localhost, or make a token"
            raise Refused(403, "foreign-host", f"Host={ascii(host.decode('latin-1'))[:VALUE_SHOWN]}: {detail}")


def _is_ours(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
