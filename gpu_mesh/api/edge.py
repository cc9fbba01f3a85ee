"""The outermost: bounds what a request may be before anybody reads it, and what every answer carries."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpu_mesh.api.problems import Refused
from gpu_mesh.api.refusing import header, refuse
from gpu_mesh.errors import VALUE_SHOWN
from gpu_mesh.settings import Settings

__all__ = ["LARGEST_HEAD", "Edge"]

#: Names and values of all headers, bytes; how many; and path and query, bytes.
LARGEST_HEAD, MOST_HEADERS, LONGEST_TARGET = 16_384, 100, 8192
#: Carried by every answer that does not say it otherwise: nothing of it is a page, or to be kept.
HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
#: Answered however much is going on: whoever watches the process must not take it for dead.
LIVENESS = "/health"


class Edge:
    """Middleware. Also turns what nobody caught into a problem, without its stack trace."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._most, self._busy = settings.api_max_requests, 0
        self._origins = frozenset(settings.api_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on, or answer it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing here is a WebSocket
            await send({"type": "websocket.close", "code": 1008})
            return
        has_begun = False

        async def sending(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                message["headers"] = _completed(message.get("headers", []))
            await send(message)

        self._busy += 1
        try:
            self._check(scope)
            await self._app(scope, receive, sending)
        except Exception as exc:
            if has_begun:
                raise
            await refuse(scope, receive, sending, exc)
        finally:
            self._busy -= 1

    def _check(self, scope: Scope) -> None:
        headers = scope["headers"]
        if len(headers) > MOST_HEADERS or sum(len(name) + len(value) for name, value in headers) > LARGEST_HEAD:
            detail = f"at most {MOST_HEADERS} headers, {LARGEST_HEAD} bytes together"
            raise Refused(431, "request-header-fields-too-large", detail)
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > LONGEST_TARGET:
            raise Refused(414, "uri-too-long", f"path and query: at most {LONGEST_TARGET} bytes together")
        if header(scope, b"transfer-encoding") and header(scope, b"content-length"):
            # A proxy that goes by the other one sees another request here (RFC 9112 6.3).
            raise Refused(400, "bad-request", "Transfer-Encoding or Content-Length, not both")
        if len(header(scope, b"idempotency-key")) > 1:
            raise Refused(400, "bad-request", "Idempotency-Key: one, not several")
        if self._busy > self._most and scope["path"] != LIVENESS:
            detail = f"{self._most} requests are being answered (GPU_MESH_API_MAX_REQUESTS); try again"
            raise Refused(503, "busy", detail, headers={"Retry-After": "1"})
        for origin in header(scope, b"origin"):
            if not self._is_welcome(origin.decode("latin-1"), scope):
                shown = ascii(origin.decode("latin-1"))[:VALUE_SHOWN]
                raise Refused(403, "foreign-origin", f"Origin={shown}: not one of GPU_MESH_API_ORIGINS")

    def _is_welcome(self, origin: str, scope: Scope) -> bool:
        """A browser says which page asks: one that may, or one of ours."""
        if origin in self._origins:
            return True
        try:
            own = urlsplit(origin).netloc
        except ValueError:
            return False
        return bool(own) and [own.lower()] == [host.decode("latin-1").lower() for host in header(scope, b"host")]


def _completed(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    held = {name.lower() for name, _ in headers}
    return [*headers, *((name, value) for name, value in HEADERS if name not in held)]
