"""rediss:// end to end (DESIGN §4): claim, result, events and control through TLS; a wrong authority is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from bare_workers import SenderApp
from kombu.exceptions import OperationalError
from processes import gpu_mesh, run
from redis_servers import RedisServer, running
from tls_proxy import TlsProxy, certificate, tls_proxy
from waiting import wait_for

from gpu_mesh.celery import configuration
from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.settings import Settings
from gpu_mesh.store.client import check_broker, connect

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")

#: How long a task may take, s.
LIMIT_S = 20
EXIT_BROKER = 3


@dataclass(frozen=True)
class Secured:
    proxy: TlsProxy
    server: RedisServer
    authority: Path
    folder: Path

    def env(self, authority: Path) -> dict[str, str]:
        return {
            "GPU_MESH_BROKER_URL": self.proxy.url,
            "GPU_MESH_TLS_CA_FILE": str(authority),
            "GPU_MESH_INCLUDE": "sample_tasks",
            "GPU_MESH_STATE_DIR": str(self.folder),
            "NODE_NAME": "tls",
        }

    def settings(self, authority: Path) -> Settings:
        return Settings(broker_url=self.proxy.url, tls_ca_file=authority)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = certificate(folder, "redis")
    with running(RedisServer(folder / "redis")) as server, tls_proxy(server.port, cert, key) as proxy:
        yield Secured(proxy, server, cert, folder)


def test_submit_claim_and_result(secured: Secured):
    """DESIGN §4: a worker claims over TLS, a caller submits and gets the result, control finds the worker."""
    log = secured.folder / "worker.log"
    env = secured.env(secured.authority)
    with gpu_mesh("worker", "--devices", "fake:A40:40", log=log, ready="gpu0@tls ready", env=env):
        with SenderApp("tls-tests", set_as_current=False) as app:
            app.conf.update(configuration(secured.settings(secured.authority)))
            sent = app.send_task("sample_tasks.add", (2, 3), business="revenue")
            assert sent.get(LIMIT_S) == 5
            found = wait_for(lambda: app.control.inspect(timeout=1).active_queues(), "the worker to answer")
            assert "internal" in {queue["name"] for queue in found["gpu0@tls"]}
        done = run("submit", "sample_tasks.add", "[3, 4]", "--wait", "--timeout", str(LIMIT_S), env=env)
    assert (done.returncode, done.stdout.strip().splitlines()[-1]) == (0, "7"), done.stderr
    assert secured.proxy.secured


def test_store_speaks_tls(secured: Secured):
    """DESIGN §4: the mesh's own clients too."""
    with connect(secured.settings(secured.authority)) as client:
        assert client.ping()


class TestWrongAuthority:
    @pytest.fixture
    def stranger(self, tmp_path: Path) -> Path:
        return certificate(tmp_path, "stranger")[0]

    def test_check(self, secured: Secured, stranger: Path):
        """A certificate of another authority is refused, with the address and what is wrong."""
        with pytest.raises(BrokerUnavailable, match=r"rediss://.*not trusted.*GPU_MESH_TLS_CA_FILE"):
            check_broker(secured.settings(stranger))

    def test_broker_connection(self, secured: Secured, stranger: Path):
        """Celery's own connection refuses it too, not only the check that a submit makes first."""
        with SenderApp("tls-strangers", set_as_current=False) as app:
            app.conf.update(configuration(secured.settings(stranger)))
            with app.connection_for_write() as connection, pytest.raises(OperationalError, match="certificate verify"):
                connection.ensure_connection(max_retries=1, interval_start=0)

    def test_submit(self, secured: Secured, stranger: Path):
        """The command line says so in a line, sends nothing and hangs nowhere."""
        done = run("submit", "sample_tasks.add", "[1, 1]", env=secured.env(stranger))
        assert done.returncode == EXIT_BROKER
        assert "certificate verify failed" in done.stderr.lower()
        assert "Traceback" not in done.stderr
        with secured.server.client() as client:
            assert not client.exists("internal:6")


def test_without_an_authority(secured: Secured):
    """DESIGN §4: rediss:// without certificate settings is refused, with the setting to make."""
    done = run("status", env={**secured.env(Path()), "GPU_MESH_TLS_CA_FILE": ""})
    assert done.returncode != 0
    assert "GPU_MESH_TLS_CA_FILE" in done.stderr
