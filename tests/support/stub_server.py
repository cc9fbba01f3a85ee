"""What the engines' stubs share: a FastAPI app on a port of 127.0.0.1, in a thread or a process; faults on order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import uvicorn
from fastapi import FastAPI, Request, Response

__all__ = ["Fault", "StubServer", "serve", "stub_process"]

#: Between two looks whether the client is still there, s.
LOOK_S = 0.01
#: How long a stub may take to start or to end, s.
DEADLINE_S = 20.0


@dataclass(slots=True)
class Fault:
    """What goes wrong in the next `times` requests for work.

    `error` (an answer with `status` and `text`), `malformed` (no answer of such a server), `reset`, `hang`; within a
    stream after `after` tokens: `drop` (connection cut), `stream_error` (`text`), `stream_malformed`, `truncated`
    (ends as if whole, without its last piece), `stall`.
    """

    kind: str
    times: int = 1
    status: int = 500
    text: str = "something went wrong"
    after: int = 2


class StubServer(ABC):
    """A server in a thread of this process; with `with` it ends with the block. Knobs are plain attributes."""

    #: What `POST /stub/set` may set.
    knobs: tuple[str, ...] = ("token_s", "reply_tokens")

    def __init__(self, port: int = 0) -> None:
        self.port = port
        #: Seconds between two tokens.
        self.token_s = 0.0
        #: Length of every answer in tokens; None: as long as the prompt.
        self.reply_tokens: int | None = None
        #: Path and body of each request for work, in order.
        self.requests: list[tuple[str, dict[str, Any]]] = []
        #: Answers under way, tokens sent in all, and answers whose client went away.
        self.running = 0
        self.tokens_sent = 0
        self.stopped = 0
        self._fault: Fault | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.app = FastAPI(openapi_url=None)
        self.app.add_api_route("/stub/set", self._set, methods=["POST"])
        self.app.add_api_route("/stub/fail", self._fail, methods=["POST"])
        self.app.add_api_route("/stub/crash", self._exit, methods=["POST"])
        self.app.add_api_route("/stub/state", self._state, methods=["GET"])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen: on the same port as before, where it has run before."""
        # Named as TCP: else asyncio leaves out TCP_NODELAY, and every answer takes 40 ms.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self.app, log_config=None, log_level="critical", access_log=False, lifespan="off", ws="none", http="h11"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, args=(self._server, listener), daemon=True)
        self._thread.start()
        deadline = time.monotonic() + DEADLINE_S
        while not self._server.started:
            assert time.monotonic() < deadline, "the stub did not start"
            assert self._thread.is_alive(), "the stub ended at once"
            time.sleep(LOOK_S)

    def stop(self) -> None:
        """End now, whatever is under way."""
        if self._server is None or self._thread is None or self._loop is None:
            return
        self._server.force_exit = self._server.should_exit = True
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the stub did not end"
        self._server = self._thread = self._loop = None

    def crash(self) -> None:
        """End as a killed process does: every connection is reset, what was in memory is gone."""
        if self._server is not None and self._loop is not None:
            gone = threading.Event()

            def cut() -> None:
                for protocol in list(self._connections()):
                    _reset(protocol)
                gone.set()

            self._loop.call_soon_threadsafe(cut)
            gone.wait(DEADLINE_S)
        self.stop()
        self.forget()

    def forget(self) -> None:
        """What a restart loses."""
        self.running = 0

    def fail(self, kind: str, **details: Any) -> None:
        """Order a Fault."""
        self._fault = Fault(kind, **details)

    # Within the server

    async def take(self, request: Request) -> tuple[dict[str, Any], Response | None]:
        """The request's body, and the answer where a fault was ordered."""
        body = json.loads(await request.body() or b"{}")
        self.requests.append((request.url.path, body))
        fault = self._due("error", "malformed", "reset", "hang")
        if fault is None:
            return body, None
        if fault.kind == "error":
            return body, self.error(fault.status, fault.text)
        if fault.kind == "malformed":
            return body, Response("<html>It works!</html>", media_type="text/html")
        if fault.kind == "hang":
            await self.pause(math.inf, request)
        else:
            self.abort(request)
        return body, Response()

    @abstractmethod
    def error(self, status: int, text: str) -> Response:
        """A failure, in the server's own form."""

    async def tokens(self, request: Request, tokens: Sequence[str]) -> Any:
        """The tokens at their pace, until the client goes; yields a Fault in place of one where it was ordered."""
        fault = self._due("drop", "stream_error", "stream_malformed", "truncated", "stall")
        self.running += 1
        whole = False
        try:
            for index, token in enumerate(tokens):
                if fault is not None and index == fault.after:
                    if fault.kind == "stall":
                        await self.pause(math.inf, request)
                    elif fault.kind == "drop":
                        # What was sent must have left before the connection is cut.
                        await asyncio.sleep(LOOK_S)
                        self.abort(request)
                    yield fault
                    whole = True
                    return
                if not await self.pause(self.token_s, request):
                    return
                self.tokens_sent += 1
                yield token
            whole = True
        finally:
            self.running -= 1
            self.stopped += not whole

    async def pause(self, seconds: float, request: Request) -> bool:
        """Wait; whether the client is still there."""
        until = time.monotonic() + seconds
        while not await request.is_disconnected():
            left = until - time.monotonic()
            if left <= 0:
                return True
            await asyncio.sleep(min(LOOK_S, left))
        return False

    def abort(self, request: Request) -> None:
        """Reset the connection of a request."""
        for protocol in list(self._connections()):
            if request.client and protocol.client == (request.client.host, request.client.port):
                _reset(protocol)

    def _due(self, *kinds: str) -> Fault | None:
        fault = self._fault
        if fault is None or fault.kind not in kinds or fault.times < 1:
            return None
        fault.times -= 1
        return fault

    def _connections(self) -> Any:
        assert self._server is not None
        return self._server.server_state.connections

    def _run(self, server: uvicorn.Server, listener: socket.socket) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await server.serve(sockets=[listener])

        with listener:
            asyncio.run(serve())

    async def _set(self, request: Request) -> dict[str, Any]:
        for name, value in (await request.json()).items():
            assert name in self.knobs, f"no such knob: {name}"
            setattr(self, name, value)
        return {}

    async def _fail(self, request: Request) -> dict[str, Any]:
        self.fail(**(await request.json()))
        return {}

    async def _exit(self) -> None:
        os._exit(1)

    async def _state(self) -> dict[str, Any]:
        return {
            "running": self.running,
            "tokens_sent": self.tokens_sent,
            "stopped": self.stopped,
            "requests": [path for path, _ in self.requests],
        }


def _reset(protocol: Any) -> None:
    transport = protocol.transport
    with contextlib.suppress(OSError, AttributeError):
        # No lingering: the other end sees a reset, as from a process that was killed.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


@contextmanager
def stub_process(module: str, **knobs: Any) -> Iterator[str]:
    """A stub as a process of its own (`ollama_stub`, `openai_stub`), killed with the block: its address."""
    script = Path(__file__).with_name(f"{module}.py")
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, f"{module} did not start"
        if knobs:
            httpx.post(f"{url}/stub/set", json=knobs, trust_env=False).raise_for_status()
        yield url
    finally:
        process.kill()
        process.communicate()


def serve(stub: StubServer) -> None:
    """Run it until the process ends, after printing its address."""
    stub.start()
    sys.stdout.write(f"{stub.url}\n")
    sys.stdout.flush()
    threading.Event().wait()
