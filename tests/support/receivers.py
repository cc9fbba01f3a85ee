"""Where alerts arrive in tests: a real SMTP server and a real web server, which take, refuse or hang."""

from __future__ import annotations

import email
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from redis_servers import free_port

__all__ = ["Mailbox", "Webhook", "mailbox", "webhook"]


class Webhook:
    """A web server. `status` is what it answers; while `hangs` is set nothing."""

    def __init__(self) -> None:
        self.posts: list[dict[str, Any]] = []
        self.status = 200
        self.hangs = threading.Event()
        self.arrived = threading.Semaphore(0)
        self._let_go = threading.Event()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if hook.hangs.is_set():
                    hook.arrived.release()
                    hook._let_go.wait(60)
                    return
                if hook.status == 200:
                    hook.posts.append(body)
                hook.arrived.release()
                self.send_response(hook.status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Tests need no access log."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def url(self, secret: str = "s3cret-path") -> str:
        """Its address as apprise writes it."""
        return f"json://127.0.0.1:{self.port}/{secret}"

    @property
    def titles(self) -> list[str]:
        return [post["title"] for post in self.posts]

    def close(self) -> None:
        self._let_go.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Mailbox:
    """An SMTP server that keeps what it gets."""

    def __init__(self) -> None:
        self.mails: list[Message] = []
        # It looks itself whether it is there: 0 would not do.
        self._port = free_port()
        self._controller = Controller(self, hostname="127.0.0.1", port=self._port)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.mails.append(email.message_from_bytes(envelope.content))
        return "250 OK"

    def start(self) -> None:
        self._controller.start()

    def close(self) -> None:
        self._controller.stop()

    @property
    def url(self) -> str:
        """Its address as apprise writes it."""
        return f"mailto://127.0.0.1:{self._port}/ops@example.org?from=mesh@example.org&mode=insecure"


@contextmanager
def webhook() -> Iterator[Webhook]:
    """One, for the block."""
    found = Webhook()
    try:
        yield found
    finally:
        found.close()


@contextmanager
def mailbox() -> Iterator[Mailbox]:
    """One, for the block."""
    found = Mailbox()
    found.start()
    try:
        yield found
    finally:
        found.close()
