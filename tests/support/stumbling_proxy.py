"""An HTTP server in front of another one, which is busy at first and breaks connections off: what clients must live
with.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import httpx

__all__ = ["StumblingProxy"]

BUSY = json.dumps({"status": 503, "detail": "Redis does not answer", "errors": []}).encode()


class StumblingProxy:
    """Answers the first two submits with 503 and `Retry-After: 1`, breaks the first stream off after its first piece;
    else what the server at `url` answers. `seen`: method, path and headers of each request."""

    def __init__(self, url: str) -> None:
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self._busy, self._broken = 2, False
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy._answer(self, url)

            do_POST = do_DELETE = do_GET

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _exc: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler, url: str) -> None:
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = request.rfile.read(int(headers.get("content-length", 0)))
        self.seen.append((request.command, request.path, headers))
        if request.command == "POST" and self._busy:
            self._busy -= 1
            told = {"Content-Type": "application/problem+json", "Retry-After": "1", "Content-Length": str(len(BUSY))}
            _begin(request, 503, told)
            request.wfile.write(BUSY)
            return
        # The mesh of the tests knows no tokens; who is connected to is named by the client that asks.
        passed = {name: value for name, value in headers.items() if name not in ("authorization", "host")}
        with (
            httpx.Client(timeout=60) as client,
            client.stream(request.command, url + request.path, headers=passed, content=body) as answer,
        ):
            kept = ("content-type", "retry-after", "location")
            _begin(request, answer.status_code, {name: answer.headers[name] for name in kept if name in answer.headers})
            request.close_connection = True
            for line in answer.iter_lines() if request.path.endswith("/stream") else [answer.read().decode()]:
                request.wfile.write(line.encode() + b"\n")
                request.wfile.flush()
                if line.startswith("id:") and not self._broken:
                    self._broken = True
                    request.wfile.write(b"\n")
                    return


def _begin(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    if "Content-Length" not in headers:
        request.send_header("Connection", "close")
    request.end_headers()
