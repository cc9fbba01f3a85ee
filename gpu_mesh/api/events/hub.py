"""Everybody who listens to the mesh's events, behind one feed, which runs only while somebody does."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from gpu_mesh.api.events.sse import IDLE, encode
from gpu_mesh.domain.happenings import group, happened

__all__ = ["KEPT", "Hub", "Wanted"]

#: Events kept for clients that come back, and those that one client may be behind.
KEPT = 1000
#: How long the feed runs on when the last client has gone: one that lost its connection comes back, s.
LINGER_S = 30.0
#: How long a client waits for the feed, s; and how often one that hears nothing is looked at, s.
CONNECT_S, LOOK_S = 10.0, 5.0
_ID = re.compile(r"([0-9a-f]{8})-(\d{1,18})", re.ASCII)

Feed = Callable[[Callable[[Iterable[dict[str, Any]]], None]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events a client asked for; None: all."""

    #: Types, or groups of them.
    types: frozenset[str] | None = None
    queue: str | None = None
    task_id: str | None = None

    def takes(self, event: dict[str, Any]) -> bool:
        """Whether this is one of them. What the feed says of itself everybody hears."""
        if group(event["type"]) == "mesh":
            return True
        if self.types is not None and not {event["type"], group(event["type"])} & self.types:
            return False
        return (self.queue is None or event.get("queue") == self.queue) and (
            self.task_id is None or event.get("task_id") == self.task_id
        )


@dataclass(slots=True, eq=False)
class _Listener:
    wanted: Wanted
    buffer: deque[bytes]
    missed: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def give(self, told: bytes) -> None:
        """The oldest goes where it is too slow."""
        if len(self.buffer) == self.buffer.maxlen:
            self.missed += 1
        self.buffer.append(told)
        self.changed.set()


class Hub:
    """Gives each listener the events it wants, each encoded once; a slow one misses some and is told how many."""

    def __init__(self, feed: Feed, *, kept: int = KEPT, linger_s: float = LINGER_S) -> None:
        self._feed, self._kept, self._linger_s = feed, kept, linger_s
        self._listeners: set[_Listener] = set()
        self._ring: deque[tuple[int, dict[str, Any], bytes]] = deque(maxlen=kept)
        self._number = 0
        #: Names this run of the feed: numbers of another one say nothing here.
        self._name = ""
        self._task: asyncio.Future[None] | None = None
        self._rest: asyncio.TimerHandle | None = None
        #: When the feed was connected; None: it is not.
        self._connected: float | None = None
        self._ready = asyncio.Event()

    @property
    def is_running(self) -> bool:
        """Whether the feed is."""
        return self._task is not None and not self._task.done()

    async def listen(self, wanted: Wanted, last_id: str | None) -> AsyncGenerator[bytes]:
        """What happens from now, after what happened since the event `last_id`."""
        listener = _Listener(wanted, deque(maxlen=self._kept))
        self._join(listener)
        # Before anything more happens, which the listener is given by itself.
        before = self._since(last_id, wanted)
        try:
            # Only once it is connected: whoever hears so misses nothing that happens after.
            if not self._ready.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._ready.wait(), CONNECT_S)
            elif self._connected is not None:
                yield encode("mesh", happened("mesh.connected", self._connected))
            for told in before:
                yield told
            while True:
                while listener.buffer or listener.missed:
                    if listener.missed:
                        missed, listener.missed = listener.missed, 0
                        yield encode("lagged", {"type": "lagged", "at": time.time(), "missed": missed})
                    if listener.buffer:
                        yield listener.buffer.popleft()
                listener.changed.clear()
                try:
                    await asyncio.wait_for(listener.changed.wait(), LOOK_S)
                except TimeoutError:
                    yield IDLE
        finally:
            self._leave(listener)

    def publish(self, events: Iterable[dict[str, Any]]) -> None:
        """Give events to whoever wants them; on the event loop."""
        for event in events:
            self._number += 1
            told = encode(group(event["type"]), event, f"{self._name}-{self._number}")
            self._ring.append((self._number, event, told))
            if event["type"] == "mesh.connected":
                self._connected = event["at"]
                self._ready.set()
            elif event["type"] == "mesh.disconnected":
                self._connected = None
            for listener in self._listeners:
                if listener.wanted.takes(event):
                    listener.give(told)

    def close(self) -> None:
        """End the feed."""
        if self._rest is not None:
            self._rest.cancel()
        self._end()

    def _join(self, listener: _Listener) -> None:
        self._listeners.add(listener)
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        if not self.is_running:
            self._name, self._number, self._connected = secrets.token_hex(4), 0, None
            self._ring.clear()
            self._ready.clear()
            self._task = asyncio.ensure_future(self._feed(self.publish))

    def _leave(self, listener: _Listener) -> None:
        self._listeners.discard(listener)
        if not self._listeners and self.is_running:
            self._rest = asyncio.get_running_loop().call_later(self._linger_s, self._end)

    def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _since(self, last_id: str | None, wanted: Wanted) -> list[bytes]:
        """What a client missed that heard `last_id` last; `missed` where not all of it is kept."""
        if last_id is None:
            return []
        known = _ID.fullmatch(last_id)
        if known is None or known[1] != self._name:
            return [encode("missed", {"type": "missed", "at": time.time(), "missed": None})]
        last, told = int(known[2]), []
        gap = (self._ring[0][0] if self._ring else self._number + 1) - last - 1
        if gap > 0:
            told = [encode("missed", {"type": "missed", "at": time.time(), "missed": gap})]
        return told + [sent for number, event, sent in self._ring if number > last and wanted.takes(event)]
