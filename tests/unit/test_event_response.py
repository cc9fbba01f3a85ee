"""A response that goes on until its source, its client or the server ends (issue 7 §1)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

from gpu_mesh.api.access import LOCAL_CALLER, let_in
from gpu_mesh.api.events.sse import IDLE, EventStream, encode

#: Of a test, s.
LIMIT_S = 10.0


class Connection:
    """What uvicorn gives an application: `sent` is all that the client took."""

    def __init__(self, *, takes: int = 1000) -> None:
        self.sent: list[dict[str, Any]] = []
        self.hung_up = asyncio.Event()
        self._takes = takes

    async def receive(self) -> dict[str, Any]:
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if len(self.sent) >= self._takes:
            await asyncio.Event().wait()
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


class Source:
    """Gives events, then for ever IDLE; `closed` once it was."""

    def __init__(self, *events: bytes, ends: bool = False) -> None:
        self.closed = asyncio.Event()
        self.spoke = asyncio.Event()
        self.events = self._events(events, ends)

    async def _events(self, events: tuple[bytes, ...], ends: bool) -> AsyncGenerator[bytes]:
        try:
            for event in events:
                yield event
            self.spoke.set()
            while not ends:
                await asyncio.sleep(0)
                yield IDLE
        finally:
            self.closed.set()


async def serve(source: Source, connection: Connection, stopping: asyncio.Event, **options: Any) -> None:
    held = contextlib.nullcontext()
    response = EventStream(source.events, held=held, stopping=stopping.wait, **options)
    await asyncio.wait_for(response({}, connection.receive, connection.send), LIMIT_S)
    assert source.closed.is_set()


def test_it_ends_with_its_source():
    """The client is told so, in HTTP's way."""

    async def test() -> None:
        connection = Connection()
        await serve(Source(encode("done", {"a": 1}), ends=True), connection, asyncio.Event())
        assert connection.sent[0]["status"] == 200
        assert b'event: done\ndata: {"a": 1}\n\n' in connection.body
        assert connection.sent[-1]["more_body"] is False

    asyncio.run(test())


def test_it_ends_with_its_clients_token():
    """A token that is revoked lets nobody listen on."""

    async def test() -> None:
        connection, source, scope = Connection(), Source(), {}
        answers = [True, True, False]

        async def is_good() -> bool:
            return answers.pop(0)

        let_in(scope, LOCAL_CALLER, is_good)
        response = EventStream(
            source.events, held=contextlib.nullcontext(), stopping=asyncio.Event().wait, admitted_every_s=0.0
        )
        await asyncio.wait_for(response(scope, connection.receive, connection.send), LIMIT_S)
        assert answers == []
        assert source.closed.is_set()
        assert connection.body.endswith(b": this token is of no use any more\n\n")
        assert connection.sent[-1]["more_body"] is False

    asyncio.run(test())


def test_it_ends_with_the_server():
    """With a last comment."""

    async def test() -> None:
        connection, source, stopping = Connection(), Source(), asyncio.Event()
        serving = asyncio.create_task(serve(source, connection, stopping))
        await source.spoke.wait()
        stopping.set()
        await serving
        assert connection.body.endswith(b": the server stops\n\n")

    asyncio.run(test())


def test_it_ends_with_its_client():
    """Nothing more is sent."""

    async def test() -> None:
        connection, source = Connection(), Source()
        serving = asyncio.create_task(serve(source, connection, asyncio.Event()))
        await source.spoke.wait()
        connection.hung_up.set()
        await serving
        assert connection.sent[-1].get("more_body") is not False

    asyncio.run(test())


def test_a_client_that_takes_nothing_holds_up_no_stop():
    """Its last words are not waited for."""

    async def test() -> None:
        event, connection, stopping = encode("piece", {}), Connection(takes=3), asyncio.Event()
        stopping.set()
        await serve(Source(event, event), connection, stopping)

    asyncio.run(test())


def test_a_silent_source_is_kept_alive():
    """By comments, which clients pass over."""

    async def test() -> None:
        connection, source, stopping = Connection(), Source(), asyncio.Event()
        serving = asyncio.create_task(serve(source, connection, stopping, keep_alive_s=0.0))
        while connection.body.count(b": ping\n\n") < 3:
            await asyncio.sleep(0)
        stopping.set()
        await serving

    asyncio.run(test())


def test_what_json_has_not():
    """NaN and lone surrogates, which a result may hold, are sent so that any client can read them."""
    told = encode("done", {"a": [float("nan"), 1], "b": "\ud800"}).decode()
    data = told.split("data: ")[1]
    assert json.loads(data, parse_constant=lambda name: 1 / 0) == {"a": [None, 1], "b": "\ud800"}
