"""The one way to a Redis client, for every address a broker may have (DESIGN §4; issue 2, Bad input; STYLE 8)."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from redis_servers import LOOPBACK, RedisServer, free_port, running
from submitter import submitter

from gpu_mesh.errors import BrokerRefused, BrokerUnavailable
from gpu_mesh.settings import Settings
from gpu_mesh.store.client import check_broker, connect, mapped_errors, result_url

#: With characters that a URL writes otherwise.
PASSWORD = "s3cret/w@rd:%"
QUOTED = "s3cret%2Fw%40rd%3A%25"
#: How long a client of these tests waits, s.
TIMEOUT_S = 0.5
#: For a machine that is busy with other things, s.
SLACK_S = 2.0


def given(url: str, **others: Any) -> Settings:
    return Settings(_env_file=None, broker_url=url, **others)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis with a password, on TCP and on a Unix socket."""
    folder = tmp_path_factory.mktemp("r")
    with running(RedisServer(folder, f'unixsocket "{folder}/r.sock"', password=PASSWORD)) as server:
        yield server


@contextmanager
def mute() -> Iterator[int]:
    """A server that accepts and never answers; its port."""
    accepted: list[socket.socket] = []
    with socket.create_server((LOOPBACK, 0)) as server:

        def accept() -> None:
            while True:
                try:
                    accepted.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in accepted:
                connection.close()


def test_password(guarded: RedisServer):
    """Any character may be in it."""
    with connect(given(f"redis://:{QUOTED}@{LOOPBACK}:{guarded.port}/0")) as client:
        assert client.ping()


@pytest.mark.parametrize("user", [":wrong-word@", "nobody:wrong-word@", ""])
def test_wrong_password(guarded: RedisServer, user: str):
    """Issue 2, Bad input: BrokerRefused says what to check, and no password."""
    with pytest.raises(BrokerRefused, match="Check user and password in GPU_MESH_BROKER_URL") as caught:
        check_broker(given(f"redis://{user}{LOOPBACK}:{guarded.port}/0"))
    assert f"{LOOPBACK}:{guarded.port}" in str(caught.value)
    assert "wrong-word" not in str(caught.value)


def test_no_permission(guarded: RedisServer):
    """A user who may not do what we need is refused, not away."""
    with guarded.client() as admin:
        admin.execute_command("ACL", "SETUSER", "guest", "on", ">guest-word", "+ping")
    allowed = given(f"redis://guest:guest-word@{LOOPBACK}:{guarded.port}/0")
    with mapped_errors(allowed), connect(allowed) as client:
        assert client.ping()
    with pytest.raises(BrokerRefused), mapped_errors(allowed), connect(allowed) as client:
        client.llen("internal")


@pytest.mark.parametrize("scheme", ["redis", "sentinel"])
def test_nothing_listens(scheme: str):
    """Issue 2, Bad input: BrokerUnavailable names the address, without the password, at once."""
    port = free_port()
    started = time.monotonic()
    with pytest.raises(BrokerUnavailable, match=rf"//:\*\*\*@{LOOPBACK}:{port}/0.* does not answer") as caught:
        check_broker(given(f"{scheme}://:{QUOTED}@{LOOPBACK}:{port}/0"), timeout_s=TIMEOUT_S)
    assert time.monotonic() - started < TIMEOUT_S + SLACK_S
    assert "s3cret" not in str(caught.value)
    assert not isinstance(caught.value, BrokerRefused)


@pytest.mark.parametrize("scheme", ["redis", "sentinel"])
def test_accepts_and_never_answers(scheme: str):
    """Issue 2, Bad input: the wait is bounded."""
    with mute() as port:
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable, match=f"{LOOPBACK}:{port}"):
            check_broker(given(f"{scheme}://{LOOPBACK}:{port}/0"), timeout_s=TIMEOUT_S)
        assert TIMEOUT_S <= time.monotonic() - started < TIMEOUT_S + SLACK_S


def test_full(guarded: RedisServer):
    """DESIGN §9: a full Redis is named as that."""
    current = given(f"redis://:{QUOTED}@{LOOPBACK}:{guarded.port}/0")
    with guarded.client() as admin:
        admin.set("ballast", "x" * 2**20)
        admin.config_set("maxmemory", "1mb")
        try:
            with pytest.raises(BrokerUnavailable, match=r"is full: .*Raise its maxmemory"), mapped_errors(current):
                connect(current).set("a", "b")
        finally:
            admin.config_set("maxmemory", "0")
            admin.delete("ballast")


def test_other_errors_stay_what_they_are(guarded: RedisServer):
    """A fault of ours is not told as one of the broker."""
    current = given(guarded.url)
    with connect(current) as client:
        client.set("text", "x")
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"), mapped_errors(current):
            client.lpush("text", "y")


def test_unix_socket(guarded: RedisServer, tmp_path: Path):
    """DESIGN §4: `redis+socket://`, with database and password."""
    with guarded.client() as admin:
        path = admin.config_get("unixsocket")["unixsocket"]
    with connect(given(f"redis+socket://:{QUOTED}@{path}?virtual_host=3")) as client:
        client.set("written", "through the socket")
        assert client.connection_pool.connection_kwargs["db"] == 3
    with connect(given(f"redis://:{QUOTED}@{LOOPBACK}:{guarded.port}/3")) as client:
        assert client.get("written") == "through the socket"
    with pytest.raises(BrokerUnavailable, match="no-such-socket"):
        check_broker(given(f"redis+socket://{tmp_path}/no-such-socket"))


def test_unix_socket_carries_tasks(guarded: RedisServer):
    """DESIGN §4: the Celery app sends, runs and answers over `redis+socket://`."""
    with guarded.client() as admin:
        path = admin.config_get("unixsocket")["unixsocket"]
    carries_a_task(f"redis+socket://:{QUOTED}@{path}?virtual_host=2")


def test_several_addresses(guarded: RedisServer):
    """DESIGN §4: several broker addresses are accepted; results have one place, the first."""
    url = f"redis://:{QUOTED}@{LOOPBACK}:{guarded.port}"
    assert result_url(given(f"{url}/0;{url}/1")) == f"{url}/0"
    carries_a_task(f"{url}/0;{url}/1")


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[RedisServer]:
    """A sentinel that watches a master with a password."""
    with running(RedisServer(tmp_path / "master", f'masterauth "{PASSWORD}"', password=PASSWORD)) as master:
        watch = [
            f"sentinel monitor gpus {LOOPBACK} {master.port} 1",
            f'sentinel auth-pass gpus "{PASSWORD}"',
        ]
        with running(RedisServer(tmp_path / "sentinel", *watch, sentinel=True)) as found:
            yield found


def test_sentinel(sentinel: RedisServer):
    """DESIGN §4: `sentinel://` finds the master, for the store and for the Celery app."""
    url = f"sentinel://:{QUOTED}@{LOOPBACK}:{sentinel.port}/0"
    with connect(given(url, sentinel_master="gpus")) as client:
        client.set("written", "through the sentinel")
        assert client.get("written") == "through the sentinel"
    with pytest.raises(BrokerUnavailable, match=f"{LOOPBACK}:{sentinel.port}"):
        check_broker(given(url, sentinel_master="no-such-master"), timeout_s=TIMEOUT_S)
    with pytest.raises(BrokerRefused) as caught:
        check_broker(given(url.replace(QUOTED, "wrong-word"), sentinel_master="gpus"), timeout_s=TIMEOUT_S)
    assert "wrong-word" not in str(caught.value)
    carries_a_task(url, GPU_MESH_SENTINEL_MASTER="gpus")


def carries_a_task(url: str, **others: str) -> None:
    """A process with that broker sends a task, a worker takes it, and the result comes back."""
    with submitter({"GPU_MESH_BROKER_URL": url, **others}) as process:
        assert process.ask("store")["value"] == "through connect"
        assert process.ask("work").get("value"), "the worker did not start"
        sent = process.ask("send")
        assert "value" in sent, sent
        assert process.ask("get", id=sent["value"]).get("value") == 5


def test_no_password_in_logs(guarded: RedisServer, caplog: pytest.LogCaptureFixture):
    """STYLE 18: what a refused client logs and raises holds no secret, in any part of the chain."""
    with caplog.at_level(logging.DEBUG), pytest.raises(BrokerRefused) as caught:
        check_broker(given(f"redis://:wrong-word@{LOOPBACK}:{guarded.port}/0"))
    seen: BaseException | None = caught.value
    while seen is not None:
        assert "wrong-word" not in str(seen)
        seen = seen.__cause__
    assert "wrong-word" not in caplog.text
