"""TLS in front of a plain Redis: stands for a `redis-server` built with it, which a test machine may not have."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["certificate", "tls_proxy"]

LOOPBACK = "127.0.0.1"
CHUNK = 1 << 16
#: How long a handshake may take, s.
HANDSHAKE_S = 5.0


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for loopback that is its own authority, and its key; made with the program `openssl`."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    subprocess.run(
        [
            *command.split(),
            *("-subj", f"/CN={name}", "-addext", f"subjectAltName=IP:{LOOPBACK}"),
            *("-addext", "keyUsage=critical,digitalSignature,keyCertSign"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


class TlsProxy(socketserver.ThreadingTCPServer):
    """Ends TLS and forwards to `upstream`, a loopback port."""

    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False

    def __init__(self, upstream: int, cert: Path, key: Path) -> None:
        super().__init__((LOOPBACK, 0), _Pair)
        self.upstream = upstream
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(cert, key)
        #: Connections that came through their handshake.
        self.secured = 0

    @property
    def url(self) -> str:
        """As a broker URL."""
        return f"rediss://{LOOPBACK}:{self.server_address[1]}/0"


class _Pair(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, TlsProxy)
        # What is wrong with a handshake, the client says.
        with contextlib.suppress(OSError):
            self.request.settimeout(HANDSHAKE_S)
            with self.server.context.wrap_socket(self.request, server_side=True) as secure:
                self.server.secured += 1
                secure.settimeout(None)
                with socket.create_connection((LOOPBACK, self.server.upstream)) as plain:
                    _both_ways(secure, plain)


def _both_ways(secure: ssl.SSLSocket, plain: socket.socket) -> None:
    back = threading.Thread(target=_forward, args=(plain, secure), daemon=True)
    back.start()
    _forward(secure, plain)
    back.join()


def _forward(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def tls_proxy(upstream: int, cert: Path, key: Path) -> Iterator[TlsProxy]:
    """Such a proxy, ended with the block."""
    with TlsProxy(upstream, cert, key) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
