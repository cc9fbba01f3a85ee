"""The Redis server that `gpu-mesh up` runs when no broker address is set.

    STATE/              0700 when we make it
        up.lock         held by the living `up`; the system frees it when its holder dies
        up.pid          who that is, for messages
        redis/          0700; address.json: see redis_address
            redis.conf  0600, written anew by each `prepare`
            redis.log   what a server begun by `start` printed
            data/       the append-only file

The supervisor spawns `command()` between `prepare()` and `wait_ready()`; `start()` and `stop()` do the same for
tests and small uses.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import filelock
import psutil

from gpu_mesh.errors import BrokerRefused, BrokerUnavailable, EmbeddedRedisError
from gpu_mesh.store.redis_address import (
    LOOPBACK,
    Address,
    address,
    ask,
    change_port,
    file_errors,
    port_taken,
    private_folder,
    redis_folder,
    write_private,
)
from gpu_mesh.store.redis_binary import RedisBinary, find_server
from gpu_mesh.store.redis_config import bind_hosts, config_text
from gpu_mesh.store.redis_process import POLL_S, end_leftover, end_with_parent, wait_until

__all__ = ["Address", "EmbeddedRedis", "RedisBinary", "address", "find_server"]

logger = logging.getLogger(__name__)

#: How long a server may take to load its data, in seconds: an append-only file of some GB takes about a minute.
READY_TIMEOUT_S = 120.0
#: How long a server may take to end once told to, in seconds; then it is killed.
STOP_TIMEOUT_S = 10.0
#: How long a new owner may take to write its pid, in seconds.
PID_TIMEOUT_S = 1.0
#: How long a taken port may need to come free before another is chosen, in seconds.
PORT_TIMEOUT_S = 0.5
#: How much of the server's log an error message repeats, in lines.
LOG_LINES_SHOWN = 5


class EmbeddedRedis:
    """The embedded Redis of one state folder, seen by the process that owns it.

    `listen` is an IP address of this machine (or `localhost`) to serve other machines on, beside loopback; `binary`
    the program to run (default: `find_server()`); `stop_timeout_s` how long a server may take to end.
    As a context manager it takes the folder's lock, and at the end stops what it started and frees the lock.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        listen: str = LOOPBACK,
        binary: RedisBinary | None = None,
        stop_timeout_s: float = STOP_TIMEOUT_S,
    ) -> None:
        self.state_dir = state_dir.resolve()
        self.config_file = redis_folder(state_dir) / "redis.conf"
        self.data_dir = redis_folder(state_dir) / "data"
        self._log_file = redis_folder(state_dir) / "redis.log"
        self._pid_file = self.state_dir / "up.pid"
        self._hosts = bind_hosts(listen)
        self._binary = binary
        self._stop_timeout_s = stop_timeout_s
        self._lock = filelock.FileLock(self.state_dir / "up.lock", mode=0o600, thread_local=False)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.release()

    @property
    def address(self) -> Address:
        """Where local clients find it; `prepare` may change the port."""
        return address(self.state_dir)

    @property
    def binary(self) -> RedisBinary:
        """The program to run. Raises EmbeddedRedisError when there is none."""
        if self._binary is None:
            self._binary = find_server()
        return self._binary

    def acquire(self) -> None:
        """Become the owner of the state folder, or stay it.

        Raises EmbeddedRedisError, with the owner's pid, when another living process is it.
        """
        if self._lock.is_locked:
            return
        with file_errors(self.state_dir):
            self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                self._lock.acquire(blocking=False)
            except filelock.Timeout:
                owner = self._owner()
            else:
                write_private(self._pid_file, str(os.getpid()))
                return
        raise EmbeddedRedisError(
            f"another `gpu-mesh up` ({f'process {owner}' if owner else 'its process is not visible from here'}) "
            f"already runs with the state folder {self.state_dir}: stop it first, or choose another state folder"
        )

    def release(self) -> None:
        """Give the state folder free. The server, if one runs, should have been stopped before."""
        if self._lock.is_locked:
            with file_errors(self.state_dir):
                self._pid_file.unlink(missing_ok=True)
                self._lock.release()

    def prepare(self) -> Address:
        """Make all ready for a server to be spawned; returns where it will be.

        Takes the lock, ends what a crashed owner left, moves to another port when a stranger has ours, and writes
        redis.conf. Call it only while no server of yours runs: it would be ended as a leftover.
        Raises EmbeddedRedisError.
        """
        self.acquire()
        self._check_data()
        found = self.address
        end_leftover(found, self.config_file, self.data_dir, timeout_s=self._stop_timeout_s)
        port = found.port
        # A server that is about to end holds it a moment longer; machines that joined know no other port.
        if not wait_until(lambda: not port_taken(self._hosts, port), PORT_TIMEOUT_S):
            found = change_port(self.state_dir, self._hosts)
            logger.warning(
                "port %d is taken by another program; the embedded Redis moves to %d: machines that joined need "
                "the new join line",
                port,
                found.port,
                extra={"action": "change_port"},
            )
        with file_errors(self.config_file.parent):
            private_folder(self.config_file.parent)
            private_folder(self.data_dir)
            write_private(self.config_file, config_text(found, self._hosts, self.data_dir))
        return found

    def command(self) -> list[str]:
        """What to spawn after `prepare`, in a session of its own: a Ctrl-C is for the supervisor alone."""
        return [str(self.binary.path), str(self.config_file)]

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S, *, alive: Callable[[], bool] | None = None) -> None:
        """Wait until the server answers and has loaded its data.

        `alive` says whether the spawned process still runs, so that its end need not be waited out.
        Raises BrokerRefused when what answers there is not ours, EmbeddedRedisError when the server ended or
        `timeout_s` seconds passed: it says what was last heard.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                ask(self.address, "PING")
            except BrokerRefused:
                raise
            except (BrokerUnavailable, EmbeddedRedisError) as error:
                heard = error
            else:
                return
            if alive is not None and not alive():
                raise EmbeddedRedisError(
                    f"redis-server ended instead of serving {self.data_dir}: {self._log_tail()}"
                ) from heard
            if time.monotonic() > deadline:
                raise EmbeddedRedisError(
                    f"redis-server was not ready within {timeout_s:g} s ({heard}): see its log, or allow more time"
                ) from heard
            time.sleep(POLL_S)

    def start(self, timeout_s: float = READY_TIMEOUT_S) -> Address:
        """Prepare, spawn and wait. On Linux the server ends with the thread that called this, however that ends.

        Raises what `prepare` and `wait_ready` raise; then nothing is left running.
        """
        if self._process is not None and self._process.poll() is None:
            return self.address
        found = self.prepare()
        process = self._process = self._spawn()
        try:
            self.wait_ready(timeout_s, alive=lambda: process.poll() is None)
        except BaseException:
            self.stop()
            raise
        return found

    def stop(self) -> None:
        """End the server that `start` began, its data saved; kill it when it does not end. The lock stays held."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(self._stop_timeout_s)
        except subprocess.TimeoutExpired:
            logger.warning("killing redis-server %d, which does not end", process.pid, extra={"action": "kill"})
            process.kill()
            process.wait()

    def join_line(self, host: str) -> str:
        """What to type on another machine that reaches this one as `host`; it holds the password."""
        found = self.address
        return f"GPU_MESH_BROKER_URL={Address(host, found.port, found.password).url} gpu-mesh worker"

    def _spawn(self) -> subprocess.Popen[bytes]:
        with file_errors(self._log_file.parent):
            log = self._log_file.open("wb")
        with log:
            try:
                return subprocess.Popen(
                    self.command(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=end_with_parent(),
                )
            except OSError as error:
                raise EmbeddedRedisError(
                    f"cannot run {self.binary.path} ({error.strerror}): install Redis anew, or put another on PATH"
                ) from error

    def _check_data(self) -> None:
        # Redis 7 moved the append-only file; an older server would find none and start empty, without a word.
        if (self.data_dir / "appendonlydir").is_dir() and self.binary.version < (7, 0, 0):
            raise EmbeddedRedisError(
                f"{self.data_dir} was written by Redis 7 or newer, but the newest redis-server found is "
                f"{self.binary.version_text} ({self.binary.path}), which would not see the data: put the newer one "
                "on PATH, or choose another state folder"
            )

    def _owner(self) -> int | None:
        """Pid of the living process that holds the lock, where it can be told."""

        def read() -> int | None:
            with contextlib.suppress(OSError, ValueError):
                pid = int(self._pid_file.read_text(encoding="utf-8"))
                return pid if psutil.pid_exists(pid) else None
            return None

        # The owner writes its pid right after it got the lock.
        wait_until(lambda: read() is not None, PID_TIMEOUT_S)
        return read()

    def _log_tail(self) -> str:
        # A supervisor that spawns the server itself has its output.
        if self._process is None:
            return "see its log"
        lines = self._log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        return " | ".join(lines[-LOG_LINES_SHOWN:])
