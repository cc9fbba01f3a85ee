"""One way to a Redis client, for every address the broker may have, with its errors mapped into ours."""

from __future__ import annotations

# A connection's first look for its host would import it, in a thread while the process forks (engines/importing).
import encodings.idna  # noqa: F401
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import redis
from redis import asyncio as redis_async
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from gpu_mesh.errors import BrokerRefused, BrokerUnavailable
from gpu_mesh.settings import Settings, mask
from gpu_mesh.settings import settings as own_settings
from gpu_mesh.store import embedded

__all__ = [
    "HEALTH_CHECK_S",
    "SOCKET_TIMEOUT_S",
    "broker_error",
    "broker_url",
    "check_broker",
    "connect",
    "connect_async",
    "kept_client",
    "mapped_errors",
    "process_client",
    "result_url",
    "tls_options",
]

#: An idle connection older than this is pinged before use, s (DESIGN §6: at most 4).
HEALTH_CHECK_S = 4
#: How long one answer may take, s.
SOCKET_TIMEOUT_S = 5.0


def broker_url(settings: Settings) -> str:
    """The broker's address: the one set, else that of this machine's embedded Redis."""
    return settings.broker_url or embedded.address(settings.state_dir).url


def result_url(settings: Settings) -> str:
    """Where results are kept: the address set, else the broker (the first, where several are set)."""
    url = settings.result_url or broker_url(settings)
    # Celery's result backend knows several addresses for sentinels only.
    return url if url.startswith("sentinel://") else url.split(";")[0]


def tls_options(settings: Settings) -> dict[str, Any]:
    """Certificate settings in redis-py's names; empty where none is set."""
    options = {
        "ssl_ca_certs": settings.tls_ca_file,
        "ssl_certfile": settings.tls_cert_file,
        "ssl_keyfile": settings.tls_key_file,
    }
    given = {name: str(path) for name, path in options.items() if path is not None}
    return {"ssl_cert_reqs": "required", **given} if given else {}


def connect(settings: Settings, *, timeout_s: float = SOCKET_TIMEOUT_S, retries: int = 1) -> redis.Redis:
    """A client of the broker (the first address, where several are set). Connects on first use."""
    url = broker_url(settings)
    options = {**_options(timeout_s), "retry": Retry(NoBackoff(), retries)}
    if url.startswith("sentinel://"):
        hosts, database, login, asked = _sentinels(url, options)
        found: redis.Redis = Sentinel(hosts, sentinel_kwargs=asked).master_for(
            settings.sentinel_master, db=database, **login, **options
        )
        return found
    address, more = _direct(settings, url, options)
    return redis.Redis.from_url(address, **more)


def connect_async(
    settings: Settings, *, timeout_s: float = SOCKET_TIMEOUT_S, connections: int | None = None
) -> redis_async.Redis:
    """As `connect`, for the event loop that runs; nothing is tried again by itself. `mapped_errors` fits it too.

    `connections` is how many at most wait at once; None: redis-py's 100.
    """
    url = broker_url(settings)
    options = {**_options(timeout_s), "retry": AsyncRetry(NoBackoff(), 0), "max_connections": connections}
    if url.startswith("sentinel://"):
        hosts, database, login, asked = _sentinels(url, options)
        found: redis_async.Redis = AsyncSentinel(hosts, sentinel_kwargs=asked).master_for(
            settings.sentinel_master, db=database, **login, **options
        )
        return found
    address, more = _direct(settings, url, options)
    return redis_async.Redis.from_url(address, **more)


def _options(timeout_s: float) -> dict[str, Any]:
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "socket_keepalive": True,
        "health_check_interval": HEALTH_CHECK_S,
        "decode_responses": True,
        # What a stranger pushed may be no text, and is given back to Redis as it was.
        "encoding_errors": "surrogateescape",
    }


def _direct(settings: Settings, url: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The address as redis-py has it, and the options that it takes."""
    parts = urlsplit(url.split(";")[0])
    if parts.scheme == "redis+socket":
        database = parse_qs(parts.query).get("virtual_host", ["0"])[0]
        del options["socket_keepalive"]
        # Not with urlunsplit, which leaves the slashes out where there is no password.
        return f"unix://{parts.netloc}{parts.path}?db={database}", options
    if parts.scheme == "rediss":
        options |= tls_options(settings)
    return parts.geturl(), options


def _sentinels(url: str, options: dict[str, Any]) -> tuple[list[tuple[str, int]], int, dict[str, Any], dict[str, Any]]:
    """The sentinels, the master's database and login, and the options of who asks the sentinels."""
    parts = [urlsplit(part) for part in url.split(";")]
    hosts = [(part.hostname or "127.0.0.1", part.port or 26379) for part in parts]
    database = int(parts[-1].path.strip("/") or 0)
    user, password = (unquote(part) if part else None for part in (parts[0].username, parts[0].password))
    asked = {name: options[name] for name in ("socket_timeout", "socket_connect_timeout", "retry")}
    return hosts, database, {"username": user, "password": password}, asked


@contextmanager
def mapped_errors(settings: Settings) -> Iterator[None]:
    """Turn redis-py's errors into BrokerUnavailable and BrokerRefused that name the address."""
    try:
        yield
    except redis.RedisError as exc:
        error = broker_error(settings, exc)
        if error is None:
            raise
        raise error from exc


_REFUSALS = (redis.AuthenticationError, redis.exceptions.NoPermissionError)
#: What OpenSSL says of a certificate whose authority is not ours.
_UNTRUSTED = "certificate verify failed"
#: How a script's error says that Redis is full.
_FULL = "OOM command not allowed"
#: What a Redis says that is there, but in trouble: its disk is full, a script runs too long.
_UNABLE = ("MISCONF", "BUSY")
_AWAY = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.MasterDownError,
    redis.exceptions.OutOfMemoryError,
)


def broker_error(settings: Settings, exc: BaseException) -> BrokerUnavailable | None:
    """Our error for one that Redis is the cause of, also below kombu's and Celery's wrappings; None for others."""
    shown = mask(broker_url(settings))
    seen: BaseException | None = exc
    while seen is not None:
        said = str(seen).rstrip(".")
        if isinstance(seen, BrokerUnavailable):
            return seen
        if _UNTRUSTED in said:
            return BrokerRefused(
                f"Redis at {shown} shows a certificate that is not trusted: {said}. "
                "Set GPU_MESH_TLS_CA_FILE to the authority that signed it"
            )
        if isinstance(seen, _REFUSALS):
            return BrokerRefused(f"Redis at {shown} refuses us: {said}. Check user and password in GPU_MESH_BROKER_URL")
        if isinstance(seen, redis.exceptions.OutOfMemoryError) or (
            isinstance(seen, redis.ResponseError) and _FULL in str(seen)
        ):
            return BrokerUnavailable(f"Redis at {shown} is full: {said}. Raise its maxmemory, or let work finish first")
        if isinstance(seen, redis.ResponseError) and str(seen).startswith(_UNABLE):
            return BrokerUnavailable(f"Redis at {shown} cannot serve: {seen}. See its log, disk and scripts")
        if isinstance(seen, _AWAY):
            remedy = "is it running, and reachable from here?" if settings.broker_url else "start it with `gpu-mesh up`"
            return BrokerUnavailable(f"Redis at {shown} does not answer ({said}); {remedy}")
        seen = seen.__cause__ or seen.__context__
    return None


@cache
def process_client(pid: int, timeout_s: float) -> redis.Redis:
    """The client of process `pid`, which asks with its own: a child made by fork must not share its parent's."""
    return connect(own_settings(), timeout_s=timeout_s)


#: By process and address.
_kept: dict[tuple[int, str], redis.Redis] = {}


def kept_client(settings: Settings) -> redis.Redis:
    """This process's client for what it does now and then: a connection costs more than what is said over it."""
    key = os.getpid(), broker_url(settings)
    if key not in _kept:
        _kept[key] = connect(settings)
    return _kept[key]


def check_broker(settings: Settings, *, timeout_s: float = SOCKET_TIMEOUT_S) -> None:
    """See that Redis answers and lets us in. Raises BrokerUnavailable or BrokerRefused within `timeout_s`."""
    with mapped_errors(settings), connect(settings, timeout_s=timeout_s, retries=0) as client:
        client.ping()
