"""Bodies: JSON only, bounded in size, time and depth, and read before a route sees the request."""

from __future__ import annotations

import asyncio
import re
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpu_mesh.api.problems import Refused
from gpu_mesh.api.refusing import expects_body, header, refuse
from gpu_mesh.domain.nesting import is_deeper
from gpu_mesh.errors import VALUE_SHOWN
from gpu_mesh.settings import Settings

__all__ = ["DEEPEST", "Bodies", "largest"]

#: How deep lists and objects may lie in each other.
DEEPEST = 64
#: A body may be larger than the arguments in it: other fields, and how JSON writes them.
ROOM, ROOM_BYTES = 1.25, 1_000_000
#: A body that comes more slowly is not waited for, bytes/s.
SLOWEST = 16_000
#: Bodies of all requests together, bytes; or four of the largest.
HELD = 256_000_000
_JSON = re.compile(rb"application/json\s*(;\s*charset\s*=\s*\"?utf-8\"?\s*)?", re.IGNORECASE)


def largest(settings: Settings) -> int:
    """Longest body, bytes."""
    return int(settings.max_payload_mb * 1e6 * ROOM) + ROOM_BYTES


class Bodies:
    """Middleware. Reads a body whole, so that what is too large or too slow never reaches a parser."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._limit, self._slow_s = largest(settings), settings.api_slow_s
        self._most, self._held = max(HELD, 4 * self._limit), 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on with its body, or answer it."""
        if scope["type"] != "http" or not expects_body(scope):
            await self._app(scope, receive, send)
            return
        body = bytearray()
        try:
            try:
                self._check_head(scope)
                is_there = await self._read(receive, body)
            except Refused as exc:
                await refuse(scope, receive, send, exc)
                return
            if not is_there:
                return
            try:
                self._check_size(len(body))
                _check_json(body)
            except Refused as exc:
                await refuse(scope, receive, send, exc, read=True)
                return
            await self._app(scope, _again(bytes(body), receive), send)
        finally:
            self._held -= len(body)

    def _check_head(self, scope: Scope) -> None:
        kind = b", ".join(header(scope, b"content-type"))
        if not _JSON.fullmatch(kind.strip()):
            shown = ascii(kind.decode("latin-1"))[:VALUE_SHOWN]
            raise Refused(415, "unsupported-media-type", f"Content-Type={shown}: application/json")
        coding = b", ".join(header(scope, b"content-encoding"))
        if coding.strip().lower() not in (b"", b"identity"):
            raise Refused(415, "unsupported-media-type", "Content-Encoding: none; send the body as it is")
        for length in header(scope, b"content-length"):
            self._check_size(int(length) if length.isdigit() else 0)

    def _check_size(self, size: int) -> None:
        if size > self._limit:
            detail = f"the body is larger than {self._limit} bytes; GPU_MESH_MAX_PAYLOAD_MB sets what a task may carry"
            raise Refused(413, "payload-too-large", detail)
        if self._held > self._most:
            raise Refused(503, "busy", "too much is being sent at once; try again", headers={"Retry-After": "1"})

    async def _read(self, receive: Receive, body: bytearray) -> bool:
        """Fill `body`; False where the client went away."""
        began = time.monotonic()
        more = True
        while more:
            left_s = began + self._slow_s + len(body) / SLOWEST - time.monotonic()
            try:
                async with asyncio.timeout(max(0.0, left_s)):
                    message = await receive()
            except TimeoutError:
                detail = f"the body did not come within {self._slow_s:g} s (GPU_MESH_API_SLOW_S)"
                raise Refused(408, "request-timeout", detail) from None
            if message["type"] == "http.disconnect":
                return False
            part = message.get("body", b"")
            body += part
            self._held += len(part)
            if more := message.get("more_body", False):
                self._check_size(len(body))
        return True


def _check_json(body: bytearray) -> None:
    # A parser would guess other encodings by their zeros; JSON on the wire is UTF-8 (RFC 8259).
    if b"\0" in body:
        raise Refused(400, "bad-request", "the body is not JSON in UTF-8")
    if is_deeper(body, DEEPEST):
        raise Refused(400, "bad-request", f"the body is not JSON, or lies more than {DEEPEST} levels deep")


def _again(body: bytes, receive: Receive) -> Receive:
    """The body in one piece; then what comes after it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
