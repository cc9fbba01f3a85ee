"""Where the embedded Redis of a state folder is, and how to ask it something.

STATE/redis/            0700
    address.json        0600, {"port": …, "password": …}: made by whoever needs it first
    address.lock        held while address.json is made or its port changed
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import filelock
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gpu_mesh.errors import BrokerRefused, BrokerUnavailable, EmbeddedRedisError

__all__ = [
    "LOOPBACK",
    "Address",
    "address",
    "ask",
    "change_port",
    "file_errors",
    "port_taken",
    "private_folder",
    "redis_folder",
    "write_private",
]

#: Where clients of this machine find the embedded Redis.
LOOPBACK = "127.0.0.1"
#: Ports to choose from: under the ephemeral range of Linux (32768) and macOS (49152), out of which the
#: system gives ports to any outgoing connection, also while our server is down.
PORTS = range(20000, 32768)
#: How many of them are tried.
PORTS_TRIED = 100
#: Randomness of the password, in bytes.
PASSWORD_BYTES = 32
#: How long a process may hold the lock of the address file, in seconds.
LOCK_TIMEOUT_S = 10.0
#: How long the server may take to connect, and to answer, in seconds.
ANSWER_TIMEOUT_S = 2.0

#: What `secrets.token_urlsafe` makes: no character that redis.conf, a URL or a shell would read otherwise.
_PASSWORD = re.compile(r"[A-Za-z0-9_-]{16,}")


@dataclass(frozen=True)
class Address:
    """Host, port and password of a Redis server, database 0."""

    host: str
    port: int
    password: str = field(repr=False)

    @property
    def url(self) -> str:
        """`redis://:PASSWORD@HOST:PORT/0`, as a broker URL: it holds the password."""
        return self._url(quote(self.password, safe=""))

    @property
    def masked(self) -> str:
        """`redis://:***@HOST:PORT/0`, for logs and messages."""
        return self._url("***")

    def _url(self, password: str) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis://:{password}@{host}:{self.port}/0"


def address(state_dir: Path) -> Address:
    """Where the embedded Redis of `state_dir` is, or will be once `gpu-mesh up` runs.

    The first call chooses a free port and a password and keeps them in the folder; any process of this user
    may be the first. Raises EmbeddedRedisError when the folder cannot be written or the file is corrupt.
    """
    folder = redis_folder(state_dir)
    with file_errors(folder):
        with contextlib.suppress(FileNotFoundError):
            return _read(folder)
        private_folder(folder)
        with _locked(folder):
            with contextlib.suppress(FileNotFoundError):
                return _read(folder)
            return _write(folder, Address(LOOPBACK, _free_port([LOOPBACK]), secrets.token_urlsafe(PASSWORD_BYTES)))


def change_port(state_dir: Path, hosts: Sequence[str]) -> Address:
    """Give the embedded Redis of `state_dir` another port, free on all `hosts`; the password stays."""
    folder = redis_folder(state_dir)
    with file_errors(folder), _locked(folder):
        return _write(folder, replace(_read(folder), port=_free_port(hosts)))


def redis_folder(state_dir: Path) -> Path:
    """The folder of the embedded Redis, absolute and without links: by it we know our processes again."""
    return state_dir.resolve() / "redis"


def ask(server: Address, *command: str) -> Any:
    """What the server answers to one command, as redis-py reads it: text, and True for PING's `PONG`.

    Raises BrokerRefused (password or permission), BrokerUnavailable (no answer, still loading, connection lost)
    or EmbeddedRedisError (it answered with an error, or does not speak Redis's protocol).
    """
    client = redis.Redis(
        host=server.host,
        port=server.port,
        password=server.password,
        protocol=2,
        socket_timeout=ANSWER_TIMEOUT_S,
        socket_connect_timeout=ANSWER_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
        encoding_errors="replace",
    )
    # redis-py leaves this method without types.
    execute: Callable[..., Any] = client.execute_command
    try:
        return execute(*command)
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise BrokerRefused(f"the server at {server.masked} refuses our password: {error}") from error
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise BrokerUnavailable(f"the server at {server.masked} does not answer: {error}") from error
    # redis-py's parser lets a ValueError pass for bytes that are no Redis reply.
    except (redis.RedisError, ValueError) as error:
        raise EmbeddedRedisError(f"the server at {server.masked} answered with an error: {error}") from error
    finally:
        client.close()


def port_taken(hosts: Sequence[str], port: int) -> bool:
    """Whether a server could not listen on `port` of all `hosts`, which are IP addresses of this machine.

    Raises EmbeddedRedisError for an address that is not of this machine.
    """
    for host in hosts:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            # As redis-server does: connections that linger from the last run are in nobody's way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return True
                raise EmbeddedRedisError(
                    f"cannot listen on {host}: {error.strerror}; use an address of this machine, "
                    "or 0.0.0.0 for all of them"
                ) from error
    return False


def private_folder(folder: Path) -> None:
    """Make the folder if need be; only its owner may enter. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def write_private(file: Path, text: str) -> None:
    """Put `text` in place of the file at once; only its owner may read it, from the start. Raises OSError."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as new:
            new.write(text)
            new.flush()
            os.fsync(new.fileno())
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def file_errors(folder: Path) -> Iterator[None]:
    """Map what can go wrong with files in `folder` to EmbeddedRedisError."""
    try:
        yield
    except filelock.Timeout as error:
        raise EmbeddedRedisError(
            f"{error.lock_file} was held by another process for {LOCK_TIMEOUT_S:g} s: look for a gpu-mesh that hangs"
        ) from error
    except OSError as error:
        raise EmbeddedRedisError(
            f"cannot use the folder {folder} ({error.strerror or error}): make it a folder that this user owns "
            "and can write, or choose another state folder"
        ) from error


def _locked(folder: Path) -> filelock.BaseFileLock:
    return filelock.FileLock(folder / "address.lock", timeout=LOCK_TIMEOUT_S, mode=0o600)


def _read(folder: Path) -> Address:
    file = folder / "address.json"
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        port, password = data["port"], data["password"]
        # `type(…) is`: True is an int to isinstance.
        if not (type(port) is int and 0 < port < 65536 and _PASSWORD.fullmatch(password)):
            raise ValueError("port or password out of range")
    except (ValueError, KeyError, TypeError) as error:
        raise EmbeddedRedisError(
            f"{file} is corrupt; expected a port (1-65535) and a password as JSON: stop `gpu-mesh up`, delete the "
            "file and start again. The tasks are kept; a new password is made, so other machines must join anew"
        ) from error
    return Address(LOOPBACK, port, password)


def _write(folder: Path, new: Address) -> Address:
    write_private(folder / "address.json", json.dumps({"port": new.port, "password": new.password}))
    return new


def _free_port(hosts: Sequence[str]) -> int:
    for port in random.sample(PORTS, PORTS_TRIED):
        if not port_taken(hosts, port):
            return port
    raise EmbeddedRedisError(
        f"{PORTS_TRIED} ports between {PORTS[0]} and {PORTS[-1]} were tried and none is free on "
        f"{', '.join(hosts)}: end what holds them"
    )
