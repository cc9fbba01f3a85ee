"""uvicorn's HTTP protocol with what it lacks: bounds on slow clients and connections, and refusals as problems."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from gpu_mesh.api import problems
from gpu_mesh.api.edge import LARGEST_HEAD
from gpu_mesh.api.problems import Refused
from gpu_mesh.settings import Settings

__all__ = ["Protocol", "protocol"]

#: Connections beyond those whose requests are answered: idle ones, and those that are refused.
SPARE = 128


def protocol(settings: Settings) -> type[asyncio.Protocol]:
    """The protocol with these settings."""
    bounds = {"slow_s": settings.api_slow_s, "most": settings.api_max_requests + SPARE}
    return cast(type[asyncio.Protocol], type("Protocol", (Protocol,), bounds))


class Protocol(H11Protocol):
    """Ends a connection whose request's head is not there `slow_s` after its first byte, or after it was opened, and
    one whose client reads nothing of an answer for as long."""

    slow_s: float
    most: int
    _head: asyncio.TimerHandle | None = None
    _reader: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Take a connection, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.abort()
        else:
            self._head = self.loop.call_later(self.slow_s, self._end_of_patience)

    def data_received(self, data: bytes) -> None:
        """Read on."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._forget_head()
        elif self._head is None:
            self._head = self.loop.call_later(self.slow_s, self._end_of_patience)

    def pause_writing(self) -> None:
        """The client does not read as fast as we write."""
        super().pause_writing()
        self._reader = self._reader or self.loop.call_later(self.slow_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def connection_lost(self, exc: Exception | None) -> None:
        """No timer is left."""
        self._forget_head()
        super().connection_lost(exc)  # which resumes writing

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP, or too large a head of it; called where h11 raised that."""
        exc = sys.exception()
        status = exc.error_status_hint if isinstance(exc, h11.RemoteProtocolError) else 400
        if status == 431:
            refused = Refused(431, "request-header-fields-too-large", f"at most {LARGEST_HEAD} bytes of headers")
        else:
            refused = Refused(400, "bad-request", msg)
        self._refuse(refused)

    def _end_of_patience(self) -> None:
        self._head = None
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            return
        if not self.conn.trailing_data[0]:
            self.transport.close()
            return
        detail = f"the request's head did not come within {self.slow_s:g} s (GPU_MESH_API_SLOW_S)"
        self._refuse(Refused(408, "request-timeout", detail))

    def _refuse(self, refused: Refused) -> None:
        self._forget_head()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = problems.response("", refused)
            headers = [*answer.raw_headers, (b"connection", b"close")]
            reason = b""
            for event in (
                h11.Response(status_code=refused.status, headers=headers, reason=reason),
                h11.Data(data=bytes(answer.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _forget_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None
