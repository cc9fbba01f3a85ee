"""A Redis that these tests may fill up and flush."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from claiming import Device
from redis_servers import RedisServer, running


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for this folder."""
    folder: Path = tmp_path_factory.mktemp("lua")
    with running(RedisServer(folder)) as found:
        yield found


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    """Its client; the database is empty."""
    with server.client() as found:
        found.config_set("maxmemory", 0)
        found.flushall()
        yield found
        found.config_set("maxmemory", 0)


@pytest.fixture
def device(client: redis.Redis) -> Device:
    """One with a lease."""
    return Device(client, max_gb=24).start()
