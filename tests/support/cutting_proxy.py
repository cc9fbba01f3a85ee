"""A TCP proxy between a worker and Redis that loses answers, whole or from some byte on, where a test says."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["CuttingProxy", "cutting_proxy"]

#: (what the client sent last, what Redis answers) → whether the answer is lost and the connection cut.
Rule = Callable[[bytes, bytes], bool]

CHUNK = 1 << 16


class CuttingProxy(socketserver.ThreadingTCPServer):
    """Forwards to `upstream` (a loopback port); `rule` is asked of each answer."""

    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False

    def __init__(self, upstream: int) -> None:
        super().__init__(("127.0.0.1", 0), _Pair)
        self.upstream = upstream
        self.rule: Rule | None = None
        self.cuts = 0
        #: Bytes of the lost answer that still arrive.
        self.let_through = 0

    @property
    def url(self) -> str:
        """As a broker URL."""
        return f"redis://127.0.0.1:{self.server_address[1]}/0"

    def cut(self, rule: Rule, *, let_through: int = 0) -> None:
        """From now on lose the answers that `rule` names, but for their first bytes."""
        self.let_through, self.rule = let_through, rule

    def heal(self) -> None:
        """Lose nothing any more."""
        self.rule = None


class _Pair(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, CuttingProxy)
        proxy, self.sent = self.server, b""
        try:
            redis_end = socket.create_connection(("127.0.0.1", proxy.upstream))
        except OSError:
            return
        with redis_end:
            threading.Thread(target=self._send, args=(redis_end,), daemon=True).start()
            with contextlib.suppress(OSError):
                while answer := redis_end.recv(CHUNK):
                    if proxy.rule is not None and proxy.rule(self.sent, answer):
                        proxy.cuts += 1
                        self.request.sendall(answer[: proxy.let_through])
                        return
                    self.request.sendall(answer)

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            self.request.shutdown(socket.SHUT_RDWR)

    def _send(self, redis_end: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while asked := self.request.recv(CHUNK):
                self.sent = asked
                redis_end.sendall(asked)
        with contextlib.suppress(OSError):
            redis_end.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutting_proxy(upstream: int) -> Iterator[CuttingProxy]:
    """Such a proxy, ended with the block."""
    with CuttingProxy(upstream) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
