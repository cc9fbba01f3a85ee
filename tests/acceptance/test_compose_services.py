"""Each service of docker-compose.yml run bare: its command, environment and health check, with real processes and a
real Redis on this machine in place of containers (SPEC N2)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import redis
from compose_file import ROOT, Service, services
from redis_servers import LOOPBACK, free_port
from waiting import wait_for

from gpu_mesh.store.embedded import find_server

START_S = 60.0
PASSWORD = "5eSam3" * 4
MESH = ("control", "beat", "flower", "worker")


class Container:
    """A service's process. Folders of the container are folders of the test, `env_file` is read as compose does."""

    def __init__(self, service: Service, folder: Path, settings: dict[str, str]) -> None:
        self.service = service
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        places = {target: str(folder / target.strip("/").replace("/", "-")) for target in service.targets}
        for place in places.values():
            Path(place).mkdir(exist_ok=True)
        given = {**settings, **service.environment} if "env_file" in service.data else service.environment
        programs = [str(Path(sys.executable).parent), str(find_server().path.parent), os.environ["PATH"]]
        self.env = {name: places.get(value, value) for name, value in given.items()}
        self.env |= {"PATH": os.pathsep.join(programs), "HOME": str(folder), "PYTHONPATH": os.environ["PYTHONPATH"]}
        self._cwd = places["/data" if service.name == "redis" else "/app"]
        self._log = folder / f"{service.name}.log"

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.service.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.env,
                cwd=self._cwd,
                start_new_session=True,
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def check(self, **env: str) -> tuple[bool, str]:
        """Whether its health check says that it is well; and what it printed."""
        try:
            ran = subprocess.run(
                self.service.health_command,
                capture_output=True,
                text=True,
                env={**self.env, **env},
                cwd=self._cwd,
                timeout=self.service.health_timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False, "timed out"
        return ran.returncode == 0, ran.stdout + ran.stderr

    def await_healthy(self) -> None:
        def well() -> bool:
            assert self.process.poll() is None, self.said()
            return self.check()[0]

        wait_for(well, f"{self.service.name} to be healthy, see {self._log}", START_S)

    def tree(self) -> list[psutil.Process]:
        """It and all that it started."""
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]

    def stop(self) -> int:
        """SIGTERM, as `docker stop` does; its exit code."""
        self.process.terminate()
        return self.process.wait(30)

    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Container]]:
    """All services; Redis first, the others once it is healthy, as `depends_on` says."""
    folder = tmp_path_factory.mktemp("compose")
    settings = {
        "NODE_NAME": "box",
        "REDIS_PASSWORD": PASSWORD,
        "REDIS_HOST": LOOPBACK,
        "REDIS_PORT": str(free_port()),
        "FLOWER_PORT": str(free_port()),
        "OLLAMA_URL": f"http://{LOOPBACK}:{free_port()}",
        "GPU_MESH_DEVICES": "fake:RTX 4090:24,fake:A40:40",
        "GPU_MESH_STOP_TIMEOUT_S": "20",
        "GPU_MESH_INCLUDE": "sample_tasks",
    }
    found = {name: Container(service, folder, settings) for name, service in services(settings).items()}
    try:
        found["redis"].start()
        found["redis"].await_healthy()
        for name in MESH:
            found[name].start()
        yield found
    finally:
        for name in (*MESH, "redis"):
            found[name].end()


def run(container: Container, *args: str) -> subprocess.CompletedProcess[str]:
    """`docker compose exec SERVICE gpu-mesh ARGS`."""
    return subprocess.run(
        ["gpu-mesh", *args], capture_output=True, text=True, env=container.env, timeout=60, check=False
    )


def test_all_become_healthy_and_work_is_done(containers: dict[str, Container]) -> None:
    """Each by its own check; then a job runs on the worker, and one of a CPU queue beside the control worker."""
    for name in MESH:
        containers[name].await_healthy()
    ran = run(containers["worker"], "submit", "sample_tasks.where", "--wait", "--timeout", "40")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["worker"] in ("gpu0@box", "gpu1@box")
    ran = run(containers["control"], "submit", "test", '["x"]', "--queue", "rfa-reminders", "--wait", "--timeout", "40")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["worker"] == "cpu@box"


def test_the_password_is_in_no_list_of_processes(containers: dict[str, Container]) -> None:
    lines = [" ".join(process.cmdline()) for container in containers.values() for process in container.tree()]
    assert any("redis-server" in line for line in lines)
    assert not [line for line in lines if PASSWORD in line]


def test_a_redis_that_answers_with_an_error_is_ill(containers: dict[str, Container]) -> None:
    """To who has no or a wrong password, and to who has the right one: as while it loads its data."""
    server = containers["redis"]
    assert not server.check(REDISCLI_AUTH="wrong")[0]
    assert not server.check(REDISCLI_AUTH="")[0]
    with redis.Redis.from_url(containers["worker"].env["GPU_MESH_BROKER_URL"]) as client:
        client.acl_setuser("default", enabled=True, commands=["-ping"])
        try:
            well, said = server.check()
        finally:
            client.acl_setuser("default", enabled=True, commands=["+ping"])
    assert not well, said
    assert server.check()[0]


def test_frozen_processes_are_ill_until_they_go_on(containers: dict[str, Container]) -> None:
    """SIGSTOP: a process that is there, and does nothing. Of several workers one is enough, where Celery's own
    `inspect ping` is content with one answer."""
    frozen = [process for name in MESH[:-1] for process in containers[name].tree()]
    frozen += [process for process in containers["worker"].tree() if any("gpu1@box" in w for w in process.cmdline())]
    for process in frozen:
        process.suspend()
    try:
        with ThreadPoolExecutor() as pool:
            checked = dict(zip(MESH, pool.map(lambda name: containers[name].check(), MESH), strict=True))
    finally:
        for process in frozen:
            process.resume()
    assert not [name for name, (well, _) in checked.items() if well]
    assert "from control@box, cpu@box" in checked["control"][1]
    assert "from beat@box" in checked["beat"][1]
    assert checked["worker"][1].endswith("from gpu1@box\n")
    for name in MESH:
        containers[name].await_healthy()


def test_sigterm_stops_each(containers: dict[str, Container]) -> None:
    """Exit code 0, no process left; the job that runs is given its time."""
    marker = Path(containers["worker"].env["HOME"]) / "job"
    sent = run(containers["worker"], "submit", "sample_tasks.hold", json.dumps([str(marker), 1.0]))
    assert sent.returncode == 0, sent.stderr
    wait_for(marker.is_file, "the job to start")
    processes = [process for name in MESH for process in containers[name].tree()]
    began = time.monotonic()
    with ThreadPoolExecutor() as pool:
        codes = dict(zip(MESH, pool.map(lambda name: containers[name].stop(), MESH), strict=True))
    assert codes == dict.fromkeys(MESH, 0), {name: containers[name].said() for name in MESH if codes[name]}
    assert time.monotonic() - began < 20
    assert psutil.wait_procs(processes, timeout=5)[1] == []
    assert not containers["flower"].check()[0]
    ended = run(containers["worker"], "tasks", "show", sent.stdout.strip(), "--json")
    assert json.loads(ended.stdout)["state"] == "SUCCESS"


def test_redis_keeps_its_data(containers: dict[str, Container]) -> None:
    """Stopped last, and started again on its volume."""
    server = containers["redis"]
    with redis.Redis.from_url(containers["worker"].env["GPU_MESH_BROKER_URL"]) as client:
        client.set("kept", "yes")
    assert server.stop() == 0, server.said()
    assert not server.check()[0]
    server.start()
    server.await_healthy()
    with redis.Redis.from_url(containers["worker"].env["GPU_MESH_BROKER_URL"], decode_responses=True) as client:
        assert client.get("kept") == "yes"
        assert client.config_get("*append*")["appendfsync"] == "everysec"
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_the_example_of_the_environment_is_enough(tmp_path: Path) -> None:
    """.env.example with every line in force: each setting in it is accepted."""
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    lines = [line.removeprefix("#") for line in text.splitlines() if "=" in line.split(" ")[0]]
    (tmp_path / ".env").write_text("\n".join(lines).replace("NODE_NAME=", "NODE_NAME=box"))
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "gpu_mesh", "config", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "shop.tasks" in ran.stdout
