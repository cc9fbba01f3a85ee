"""Which Redis answers, and what time it has."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import redis

from gpu_mesh.store.redis_binary import MIN_VERSION

__all__ = ["BEFORE_HELLO", "is_too_old", "now", "offset", "stamp", "version"]

#: What is known of a server that does not know the command a client begins with; Redis 6 brought it.
BEFORE_HELLO = "5 or older"
_VERSION = re.compile(r"(\d+)(?:\.(\d+))?")


def version(client: redis.Redis) -> str | None:
    """Its version as it says it, `7.2.4`; None where it does not, or not to us. Asks it for an answer first."""
    try:
        client.ping()
    except redis.ResponseError as exc:
        if "unknown command" in str(exc).lower():
            return BEFORE_HELLO
        raise
    try:
        found = client.info("server").get("redis_version")
    except redis.ResponseError:
        return None
    return None if found is None else str(found)


def is_too_old(text: str) -> bool:
    """Whether our scripts use commands that such a Redis lacks. What is no version is none we know to be old."""
    found = _VERSION.match(text)
    return found is not None and (int(found[1]), int(found[2] or 0)) < MIN_VERSION


def now(client: redis.Redis) -> float:
    """Redis's clock, s since the epoch."""
    return stamp(*client.time())


def stamp(seconds: float | str | bytes, micros: float | str | bytes) -> float:
    """What Redis's TIME tells, in s since the epoch."""
    return float(seconds) + float(micros) / 1e6


def offset(client: redis.Redis, clock: Callable[[], float] = time.time) -> tuple[float, float]:
    """Redis's clock, s since the epoch, and how far this machine's is before it, s: half of the round trip is taken
    for the way there."""
    client.ping()  # so that a connection is there
    sent = clock()
    theirs = now(client)
    back = clock()
    return theirs, (sent + back) / 2 - theirs
