"""`gpu-mesh api` as a process: where it may listen, slow clients, and tokens that are revoked (SPEC A1; issue 7 §2)."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import run
from rest import api
from tls_proxy import certificate
from waiting import wait_for

from gpu_mesh.services import tokens
from gpu_mesh.settings import settings

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
READ, CHANGE = "/queues", "/queues/ai-batch/pause"
#: Of the process under test.
SLOW_S, MAX_MB, LIMIT = 1.0, 0.01, 1_012_500


@pytest.fixture(scope="module")
def rest(empty_redis, tmp_path_factory) -> Iterator:
    env = {"GPU_MESH_API_SLOW_S": str(SLOW_S), "GPU_MESH_MAX_PAYLOAD_MB": str(MAX_MB)}
    with api(tmp_path_factory.mktemp("api"), env) as client:
        yield client


@contextmanager
def _connected(rest) -> Iterator[socket.socket]:
    with socket.create_connection((rest.base_url.host, rest.base_url.port), timeout=30) as found:
        yield found


def _until_closed(connection: socket.socket) -> bytes:
    """What comes until the other side closes; a deadline of 30 s is the socket's own."""
    found = b""
    while part := connection.recv(65_536):
        found += part
    return found


def _status(answer: bytes) -> int:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    status = int(head.split()[1])
    assert json.loads(body)["status"] == status
    return status


def test_a_head_that_does_not_come_to_its_end(rest):
    """Slowloris: a header now and then."""
    with _connected(rest) as connection:
        began = time.monotonic()
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        connection.sendall(b"X-a: b\r\n")
        assert _status(_until_closed(connection)) == 408
    assert time.monotonic() - began >= SLOW_S * 0.9


def test_a_second_request_on_the_same_connection_is_bounded_too(rest):
    with _connected(rest) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET")
        assert _status(_until_closed(connection)) == 408


def test_a_connection_that_says_nothing(rest):
    with _connected(rest) as connection:
        assert _until_closed(connection) == b""


def test_a_body_that_drips(rest):
    head = (
        f"POST {CHANGE} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    )
    with _connected(rest) as connection:
        connection.sendall(head.encode() + b"{")
        assert _status(_until_closed(connection)) == 408


def test_a_large_body_in_pieces_that_does_not_say_how_large(rest):
    """It is answered before it ends: this one never does."""
    head = f"POST {CHANGE} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with _connected(rest) as connection:
        connection.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(LIMIT // 0x10000 + 1):
            connection.sendall(piece)
        assert _status(_until_closed(connection)) == 413
    assert rest.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 1000 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000, 431),  # which never comes to its end
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40 + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    ],
)
def test_heads_that_are_no_requests(rest, sent, status):
    with _connected(rest) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        assert _status(_until_closed(connection)) == status
    assert rest.get("/health").status_code == 200


def test_a_client_that_reads_nothing(rest):
    """Its answers are dropped, and its connection; nothing waits for it for ever."""
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000
    with _connected(rest) as connection:
        connection.settimeout(0.5)

        def is_dropped() -> bool:
            try:
                connection.sendall(asked)
            except TimeoutError:
                return False
            except OSError:
                return True
            return False

        wait_for(is_dropped, "the end of the connection", 30)
    assert rest.get("/health").status_code == 200


def test_a_token_that_is_revoked_is_of_no_use(rest, tmp_path):
    """The commands, as an operator has them; the secret is shown once and in no log."""
    env = {"GPU_MESH_LOG_FILE": str(tmp_path / "log")}
    made = run("token", "create", "shop", "--role", "read", "--expires", "1h", "--json", env=env)
    assert made.returncode == 0, made.stderr
    shown = json.loads(made.stdout)["token"]
    wait_for(lambda: rest.get(READ).status_code == 401, "a token to be needed", 10)
    header = {"Authorization": f"Bearer {shown}"}
    assert rest.get(READ, headers=header).status_code == 200
    assert rest.post(CHANGE, headers=header).status_code == 403
    assert run("token", "revoke", "shop", env=env).returncode == 0
    wait_for(lambda: rest.get(READ, headers=header).status_code == 401, "the token to be of no use", 10)
    log = (tmp_path / "log").read_text()
    assert "gpu-mesh token create" in log
    assert "name=shop" in log
    assert "gpu-mesh token revoke which=shop" in log
    assert shown.rpartition("_")[2] not in log
    tokens.open_again(settings())
    wait_for(lambda: rest.get(READ).status_code == 200, "no token to be needed", 10)


class TestElsewhere:
    """Issue 7 §2: without any token it serves loopback only; nothing is bound here but what is refused."""

    def test_it_does_not_start(self, broker, free_port):
        found = run("api", "--listen", "0.0.0.0", "--port", str(free_port))
        assert found.returncode == os.EX_CONFIG
        assert "GPU_MESH_API_LISTEN='0.0.0.0'" in found.stderr
        assert "gpu-mesh token create NAME --role submit" in found.stderr

    def test_up_does_not_start(self, broker, free_port):
        env = {
            "GPU_MESH_BROKER_URL": broker,
            "GPU_MESH_API_ENABLED": "true",
            "GPU_MESH_API_LISTEN": "0.0.0.0",
            "GPU_MESH_API_PORT": str(free_port),
            "GPU_MESH_DEVICES": "fake:a:8",
        }
        found = run("up", env=env)
        assert found.returncode == os.EX_CONFIG
        assert "gpu-mesh token create NAME --role submit" in found.stderr
        assert "started" not in found.stdout


@needs_openssl
def test_tls(broker, tmp_path):
    cert, key = certificate(tmp_path, "api")
    env = {"GPU_MESH_API_TLS_CERT_FILE": str(cert), "GPU_MESH_API_TLS_KEY_FILE": str(key)}
    with api(tmp_path, env) as client:
        context = ssl.create_default_context(cafile=str(cert))
        with _connected(client) as raw, context.wrap_socket(raw, server_hostname="127.0.0.1") as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert _until_closed(connection).startswith(b"HTTP/1.1 200")


@needs_openssl
def test_a_certificate_of_no_use(broker, tmp_path, free_port):
    cert, _ = certificate(tmp_path, "api")
    env = {"GPU_MESH_API_TLS_CERT_FILE": str(cert), "GPU_MESH_API_TLS_KEY_FILE": str(Path(__file__))}
    found = run("api", "--port", str(free_port), env=env)
    assert found.returncode == os.EX_CONFIG
    assert "GPU_MESH_API_TLS_CERT_FILE" in found.stderr
