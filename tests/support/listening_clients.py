"""A client of server-sent events, over a socket of its own."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx

__all__ = ["Heard", "Listener"]


class Heard(dict[str, Any]):
    """One event: its data, with `event` and `id` as attributes."""

    event: str = "message"
    id: str | None = None


class Listener:
    """Reads events of `path` until `close`; each `next` has a deadline."""

    def __init__(self, client: httpx.Client, path: str, last_id: str | None = None, timeout_s: float = 20.0) -> None:
        at = urlsplit(str(client.base_url))
        self.socket = socket.create_connection((at.hostname or "", at.port or 80), timeout=timeout_s)
        more = f"Last-Event-ID: {last_id}\r\n" if last_id else ""
        self.socket.sendall(f"GET {path} HTTP/1.0\r\nHost: {at.netloc}\r\n{more}\r\n".encode())
        self.timeout_s = timeout_s
        self._lines = self.socket.makefile("rb")
        self.status = int(self._lines.readline().split()[1])
        #: Its lines that are no events.
        self.comments: list[str] = []
        while self._lines.readline().strip():
            pass

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self.socket.close()

    def __iter__(self) -> Iterator[Heard]:
        """Events until the server ends the stream."""
        heard, is_event = Heard(), False
        deadline = time.monotonic() + self.timeout_s
        for raw in self._lines:
            assert time.monotonic() < deadline, f"no event for {self.timeout_s:g} s"
            name, _, value = raw.decode().rstrip("\n").partition(": ")
            if name == "data":
                heard.update(json.loads(value))
                is_event = True
            elif name == "event":
                heard.event = value
            elif name == "id":
                heard.id = value
            elif name == "":
                if value:
                    self.comments.append(value)
                elif is_event:
                    yield heard
                    heard, is_event = Heard(), False
                    deadline = time.monotonic() + self.timeout_s

    def until(self, *types: str) -> list[Heard]:
        """Events up to the first whose `event`, or `type`, is one of these, with it."""
        found: list[Heard] = []
        for heard in self:
            found.append(heard)
            if {heard.event, heard.get("type")} & set(types):
                return found
        raise AssertionError(f"ended before {types}: {found}")
