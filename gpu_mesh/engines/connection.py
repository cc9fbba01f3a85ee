"""The client of a server: opened when first needed, one per process, safe after a fork."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

__all__ = ["CHECK_TIMEOUT_S", "CONNECT_TIMEOUT_S", "TIMEOUT_S", "Connection"]

#: How long a server's machine may take to accept a connection, s: more than a round trip through any tunnel.
CONNECT_TIMEOUT_S = 5.0
#: How long an engine may be silent, s: a large model takes minutes to load from a slow disk.
TIMEOUT_S = 300.0
#: The same for what takes no model: lists and checks, s.
CHECK_TIMEOUT_S = 5.0


class _Closable(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=_Closable)


class Connection(Generic[T]):
    """Holds one client per process. `open` must not connect: of two made at once by two threads one is dropped."""

    def __init__(self, open: Callable[[], T]) -> None:
        self._open = open
        self._clients: dict[int, T] = {}

    def get(self) -> T:
        """This process's client. A child that was forked has its own, not its parent's sockets."""
        process = os.getpid()
        client = self._clients.get(process)
        if client is None:
            made = self._open()
            client = self._clients.setdefault(process, made)
            if client is not made:
                made.close()
        return client

    def close(self) -> None:
        """Close this process's client; the next `get` opens another."""
        client = self._clients.pop(os.getpid(), None)
        if client is not None:
            client.close()
