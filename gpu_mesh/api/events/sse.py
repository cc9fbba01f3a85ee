"""Server-sent events on the wire: one response that goes on until its source, its client or the server ends.

FastAPI's EventSourceResponse does not do: it encodes each event anew for each client, cannot answer 204 to one that is
to come no more, and knows nothing of a server that stops. Its format is used.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

import anyio
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gpu_mesh.api.access import still_in

__all__ = ["IDLE", "KEEP_ALIVE_S", "MEDIA_TYPE", "EventStream", "comment", "encode"]

MEDIA_TYPE = "text/event-stream"
#: After so long without an event a comment keeps proxies from closing the connection, s.
KEEP_ALIVE_S = 15.0
#: How often it is looked whether the client's token is good still, s.
ADMITTED_EVERY_S = 1.0
#: How long the last words of a server that stops may take, s.
FAREWELL_S = 0.5
#: When a client that lost its connection is to come again, ms.
RETRY_MS = 2000
#: What a source gives now and then while it has nothing to say.
IDLE = b""


def encode(event: str, data: Any, id: str | None = None) -> bytes:
    """One event, its data as JSON."""
    try:
        told = json.dumps(data, allow_nan=False, default=str)
    except ValueError:  # NaN and Infinity, which JSON has not
        told = json.dumps(json.loads(json.dumps(data, default=str), parse_constant=lambda name: None))
    return format_sse_event(event=event, data_str=told, id=id)


def comment(text: str) -> bytes:
    """A line that clients pass over."""
    return format_sse_event(comment=text)


class EventStream(Response):
    """`source` gives encoded events, and IDLE every few seconds while it has none. `held` is entered while it runs;
    `stopping` ends once the server stops. Ends too when who asked would not be let in any more."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        source: AsyncGenerator[bytes],
        *,
        held: AbstractContextManager[object],
        stopping: Callable[[], Awaitable[object]],
        keep_alive_s: float = KEEP_ALIVE_S,
        admitted_every_s: float = ADMITTED_EVERY_S,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._source, self._held, self._stopping = source, held, stopping
        self._keep_alive_s, self._admitted_every_s = keep_alive_s, admitted_every_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        last: bytes | None = b""

        async def hang_up() -> None:
            nonlocal last
            while (await receive())["type"] != "http.disconnect":
                pass
            last = None
            group.cancel_scope.cancel()

        async def stop() -> None:
            nonlocal last
            await self._stopping()
            last = comment("the server stops")
            group.cancel_scope.cancel()

        async def turn_out() -> None:
            nonlocal last
            while await still_in(scope):
                await anyio.sleep(self._admitted_every_s)
            last = comment("this token is of no use any more")
            group.cancel_scope.cancel()

        with self._held:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(hang_up)
                    group.start_soon(stop)
                    group.start_soon(turn_out)
                    await self._pump(send)
                    group.cancel_scope.cancel()
            finally:
                with anyio.CancelScope(shield=True):
                    await self._source.aclose()
            if last is not None:
                with anyio.move_on_after(FAREWELL_S):
                    await _body(send, last, more=False)

    async def _pump(self, send: Send) -> None:
        """A client that takes nothing is disconnected by the server (api/protocol)."""
        await _body(send, format_sse_event(retry=RETRY_MS))
        said = time.monotonic()
        async for told in self._source:
            if told == IDLE and time.monotonic() - said < self._keep_alive_s:
                continue
            await _body(send, told or KEEPALIVE_COMMENT)
            said = time.monotonic()


async def _body(send: Send, told: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": told, "more_body": more})
