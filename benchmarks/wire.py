"""Redis's protocol for a simulation of thousands of workers: commands as bytes, replies out of a buffer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import redis

__all__ = ["ERROR", "Recorder", "Reply", "drain", "replies"]

#: How an error reply begins, after the end of the reply before.
ERROR = b"\r\n-"

Reply = Any


class Recorder(redis.Redis):
    """Stands for a client: keeps, as bytes, what the store's typed functions would send, and answers `reply`."""

    def __init__(self, reply: Reply = 1) -> None:
        super().__init__()
        self._reply = reply
        self._sent: list[bytes] = []

    def execute_command(self, *args: Any, **options: Any) -> Any:
        self._sent.append(self.encode(*args))
        return self._reply

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Any:
        return self

    def execute(self) -> list[Any]:
        """Of a pipeline; all was kept already."""
        return []

    def encode(self, *args: Any) -> bytes:
        """A command."""
        encoder = self.get_encoder()
        words = [bytes(encoder.encode(arg)) for arg in args]
        return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)

    @property
    def kept(self) -> int:
        """How many commands there are."""
        return len(self._sent)

    def take(self) -> bytes:
        """All that was kept since the last call."""
        sent, self._sent = b"".join(self._sent), []
        return sent


def replies(buffer: bytearray) -> Iterator[Reply]:
    """Whole replies in a buffer, taken out of it; errors come as RedisError."""
    while buffer:
        found = _parse(buffer, 0)
        if found is None:
            return
        value, end = found
        del buffer[:end]
        yield value


def _parse(buffer: bytearray, start: int) -> tuple[Reply, int] | None:
    stop = buffer.find(b"\r\n", start)
    if stop < 0:
        return None
    kind, line, end = buffer[start : start + 1], bytes(buffer[start + 1 : stop]), stop + 2
    if kind == b"+":
        return line, end
    if kind == b"-":
        return redis.exceptions.ResponseError(line.decode()), end
    count = int(line)
    if kind == b":" or count < 0:
        return (count if kind == b":" else None), end
    if kind == b"$":
        return (bytes(buffer[end : end + count]), end + count + 2) if len(buffer) >= end + count + 2 else None
    items = []
    for _ in range(count):
        found = _parse(buffer, end)
        if found is None:
            return None
        items.append(found[0])
        end = found[1]
    return items, end


def drain(connection: socket.socket, size: int = 1 << 18) -> bytes:
    """What a non-blocking socket holds; empty when nothing."""
    try:
        return connection.recv(size)
    except BlockingIOError:
        return b""
