"""Answering a request that no route gets to see."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope, Send

from gpu_mesh.api import problems

__all__ = ["expects_body", "header", "refuse"]

#: How long the rest of a refused request's body is read and dropped, s: who still sends must get to read the answer.
LINGER_S = 2.0


def header(scope: Scope, name: bytes) -> list[bytes]:
    """All values of a header; `name` in lower case."""
    return [value for key, value in scope["headers"] if key == name]


def expects_body(scope: Scope) -> bool:
    """Whether a body comes with the request."""
    return bool(header(scope, b"transfer-encoding")) or any(
        length != b"0" for length in header(scope, b"content-length")
    )


async def refuse(scope: Scope, receive: Receive, send: Send, exc: Exception, *, read: bool = False) -> None:
    """Answer with a problem. `read`: the body was read. What was not ends the connection, for it may have no end."""
    answer = problems.response(scope["path"], problems.refusal(exc))
    if read or not expects_body(scope):
        await answer(scope, receive, send)
        return
    answer.headers["Connection"] = "close"
    await send({"type": "http.response.start", "status": answer.status_code, "headers": answer.raw_headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": True})
    try:
        async with asyncio.timeout(LINGER_S):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})
