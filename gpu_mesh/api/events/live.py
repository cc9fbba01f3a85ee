"""What all open streams of this process share: their number, the server's stop, and who feeds them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request

from gpu_mesh.api.backend import Backend
from gpu_mesh.api.events.feed import feed
from gpu_mesh.api.events.following import TaskStream, Watch
from gpu_mesh.api.events.hub import Hub
from gpu_mesh.api.events.sse import EventStream
from gpu_mesh.api.problems import Refused
from gpu_mesh.services.reading import Position
from gpu_mesh.settings import env_name
from gpu_mesh.store.client import connect_async

__all__ = ["Live", "Living", "living", "stop"]

#: When to try again where too many listen, s.
RETRY_S = 5


class Live:
    """`open` streams of this process, at most `api_max_streams` at once."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        #: redis-py's, for asyncio: it connects on first use.
        self._client: Any = connect_async(backend.settings, connections=backend.settings.api_max_streams)
        self.watch = Watch(backend)
        self.hub = Hub(partial(feed, backend))
        self.open = 0
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End all streams, and take no more; on the event loop."""
        self._stopping.set()

    async def close(self) -> None:
        """Let go of all it holds."""
        self.hub.close()
        self.watch.close()
        await self._client.aclose()

    def task_stream(self, task_id: str, position: Position | None) -> TaskStream:
        """One client's reading of one task."""
        return TaskStream(self._backend, self._client, self.watch, task_id, position)

    def response(self, source: AsyncGenerator[bytes]) -> EventStream:
        """The answer that gives `source`. Raises Refused where too many are open."""
        most = self._backend.settings.api_max_streams
        if self._stopping.is_set():
            raise Refused(503, "stopping", "the API stops; come again", headers={"Retry-After": "1"})
        if self.open >= most:
            detail = f"{self.open} streams are open, as many as may be; {env_name('api_max_streams')} is that number"
            raise Refused(503, "too-many-streams", detail, headers={"Retry-After": str(RETRY_S)})
        return EventStream(source, held=self._held(), stopping=self._stopping.wait)

    @contextmanager
    def _held(self) -> Iterator[None]:
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1


@asynccontextmanager
async def living(api: FastAPI, backend: Backend) -> AsyncIterator[None]:
    """The API with its streams."""
    live = api.state.live = Live(backend)
    try:
        yield
    finally:
        live.stop()
        await live.close()


def stop(api: Any) -> None:
    """End the streams of an API that stops; on the event loop."""
    live = getattr(getattr(api, "state", None), "live", None)
    if live is not None:
        live.stop()


def _live(request: Request) -> Live:
    found: Live = request.app.state.live
    return found


#: A parameter of this type gets it.
Living = Annotated[Live, Depends(_live)]
