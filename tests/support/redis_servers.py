"""Redis servers of a test's own: with a password, on a Unix socket, as a sentinel, to be stopped and frozen."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import redis
from waiting import wait_for

from gpu_mesh.store.embedded import find_server

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """One `redis-server` on loopback; its data survives `stop` and `start`."""

    def __init__(self, folder: Path, *lines: str, password: str | None = None, sentinel: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.password = password
        self._config = folder / "redis.conf"
        self._sentinel = sentinel
        self._log = folder / "redis.log"
        self._process: subprocess.Popen[bytes] | None = None
        base = [f"bind {LOOPBACK}", f"port {self.port}", f'dir "{folder}"', *lines]
        if not sentinel:
            base += ['save ""', "appendonly yes"]
        if password:
            base.append(f'requirepass "{password}"')
        self._config.write_text("\n".join(base) + "\n")

    @property
    def url(self) -> str:
        """As a broker URL, with the password."""
        user = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis://{user}{LOOPBACK}:{self.port}/0"

    def client(self) -> redis.Redis:
        """A client of the test's own."""
        return redis.Redis(host=LOOPBACK, port=self.port, password=self.password, decode_responses=True)

    def start(self) -> None:
        """Run it and wait until it answers."""
        flags = ["--sentinel"] if self._sentinel else []
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(find_server().path), str(self._config), *flags], stdout=log, stderr=subprocess.STDOUT
            )
        wait_for(self._answers, f"redis-server on port {self.port}, see {self._log}")

    def stop(self) -> None:
        """End it, its data saved."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                # A script that does not end keeps it from hearing; it must not outlive the tests.
                self._process.kill()
                self._process.wait()
                raise
            finally:
                self._process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It keeps its connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


@contextmanager
def running(server: RedisServer) -> Iterator[RedisServer]:
    """The server, ended with the block."""
    try:
        server.start()
        yield server
    finally:
        server.stop()
