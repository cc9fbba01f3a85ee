"""`gpu-mesh up` with real processes: a whole mesh on one machine (SPEC Shape, N1, N3, Q6)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import START_S, gpu_mesh, run
from waiting import wait_for

from gpu_mesh.domain.queues import GPU_QUEUES
from gpu_mesh.store.embedded import address

DEVICES = "fake:RTX 4090:24,fake:A40:40"
#: Beat starts last.
LAST_LINE = "beat: Starting"


@dataclass
class Mesh:
    """A running `gpu-mesh up`."""

    process: subprocess.Popen[bytes]
    env: dict[str, str]
    log: Path

    def json(self, *args: str) -> object:
        """What `gpu-mesh ARGS --json` prints."""
        ran = run(*args, "--json", env=self.env)
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    def process_tree(self) -> list[psutil.Process]:
        """Every process it started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def celery(self, *args: str) -> subprocess.CompletedProcess[str]:
        """`celery -A gpu_mesh ARGS` to its end."""
        command = [sys.executable, "-m", "celery", "-A", "gpu_mesh", *args]
        return subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **self.env}, timeout=60, check=False
        )


def environment(folder: Path, name: str) -> dict[str, str]:
    return {"GPU_MESH_STATE_DIR": str(folder / "state"), "NODE_NAME": name, "GPU_MESH_STOP_TIMEOUT_S": "20"}


def await_ready(mesh_log: Path, workers: list[str]) -> None:
    wait_for(
        lambda: all(f"{worker} ready." in mesh_log.read_text(errors="replace") for worker in workers),
        f"{workers} in {mesh_log}",
        START_S,
    )


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    folder = tmp_path_factory.mktemp("up")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    env = {
        **environment(folder, "desk"),
        "GPU_MESH_INCLUDE": "sample_tasks,yielding_tasks",
        "GPU_MESH_FLOWER_PORT": port,
        "FLOWER_UNAUTHENTICATED_API": "true",
    }
    log = folder / "up.log"
    with gpu_mesh("up", "--flower", "--devices", DEVICES, log=log, ready=LAST_LINE, env=env) as process:
        await_ready(log, ["gpu0@desk", "gpu1@desk", "control@desk", "cpu@desk"])
        yield Mesh(process, env, log)


def test_each_device_has_a_worker_on_the_five_queues_in_order(mesh: Mesh) -> None:
    """`celery inspect active_queues`: per-device workers, canonical order; CPU queues have their own (Q1, Q6)."""
    ran = mesh.celery("inspect", "active_queues", "--json")
    assert ran.returncode == 0, ran.stderr
    queues = {worker: [queue["name"] for queue in found] for worker, found in json.loads(ran.stdout).items()}
    assert queues == {
        "gpu0@desk": list(GPU_QUEUES),
        "gpu1@desk": list(GPU_QUEUES),
        "control@desk": ["control"],
        "cpu@desk": ["rfa-reminders", "rfa-distribution"],
    }


def test_one_job_at_a_time_per_device(mesh: Mesh) -> None:
    """Concurrency 1 (SPEC Shape), prefork, and no second message held."""
    stats = json.loads(mesh.celery("inspect", "stats", "--json").stdout)
    for worker in ("gpu0@desk", "gpu1@desk"):
        assert stats[worker]["pool"]["max-concurrency"] == 1
        assert "prefork" in stats[worker]["pool"]["implementation"]


def test_the_node_is_registered_with_its_devices(mesh: Mesh) -> None:
    """N1: name, count, type, memory."""
    (node,) = mesh.json("nodes")
    assert (node["name"], node["status"], node["gpu_count"], node["memory_gb"]) == ("desk", "online", 2, 64)
    assert [device["gpu_type"] for device in node["devices"]] == ["RTX 4090", "A40"]


def test_a_task_comes_back(mesh: Mesh) -> None:
    """SPEC T: `test` proves the path and says where it ran."""
    ran = run("submit", "test", '["hello"]', "--wait", env=mesh.env)
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert result["echo"] == "hello"
    assert result["worker"] in ("gpu0@desk", "gpu1@desk")


def test_a_worker_sees_its_own_device_only(mesh: Mesh) -> None:
    """A pretended device shows no CUDA device at all; the job runs in a child of its worker."""
    ran = run("submit", "sample_tasks.where", "--wait", env=mesh.env)
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert result["cuda"] == ""
    assert result["queue"] == "customer"
    assert psutil.Process(result["pid"]).ppid() == result["parent"]


def test_everything_is_in_one_log_file(mesh: Mesh) -> None:
    """H8: of all processes, with the task's id, and no password; commands that change something too."""
    sent = run("submit", "sample_tasks.fail", '["no redis://:s3cret@h/0"]', "--wait", env=mesh.env)
    assert sent.returncode == 1
    task = sent.stderr.partition(":")[0]
    assert run("resume", "internal", "--by", "bob", env=mesh.env).returncode == 0
    ran = run("logs", "--json", "--lines", "0", env=mesh.env)
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert {line["process"] for line in lines} >= {
        *("supervisor", "redis", "gpu0@desk", "gpu1@desk", "control@desk", "cpu@desk", "beat@desk", "cli"),
    }
    assert {line["node"] for line in lines} == {"desk"}
    assert "s3cret" not in ran.stdout
    failed = [line for line in lines if line["level"] == "ERROR" and line.get("task") == task]
    assert "ValueError: no redis://:***@h/0" in failed[0]["exception"]
    (told,) = (line for line in lines if line["process"] == "cli" and "resume" in line["message"])
    assert "queue=internal" in told["message"]
    text = run("logs", "--task", task[:8], "--level", "error", env=mesh.env).stdout
    assert "sample_tasks.fail" in text
    assert run("logs", "--process", "nobody", env=mesh.env).stderr.startswith("nothing of that kind is logged in")


def test_a_queue_is_paused_and_resumed(mesh: Mesh) -> None:
    """Issue 5 §1: what is sent meanwhile waits, says why, and runs once it is resumed. The lead's windows hold (R2)."""
    assert run("pause", "customer", "--by", "ann", "--until", "1h", env=mesh.env).returncode == 0
    held = run("submit", "test", '["held"]', "--business", "customer", env=mesh.env)
    assert "customer: paused by ann since" in held.stderr
    (waits,) = mesh.json("tasks", "--waiting")
    assert waits["id"] == held.stdout.strip()
    assert waits["why"].startswith("customer: paused by ann since")
    assert run("resume", "customer", env=mesh.env).stdout == "customer: resumed\n"
    assert run("wait", waits["id"], "--timeout", "30", env=mesh.env).returncode == 0
    plan = mesh.json("windows")["plan"]
    assert (plan["hours"], plan["by"]) == ("none", "desk")


def test_a_killed_worker_comes_back(mesh: Mesh) -> None:
    """The supervisor starts again what dies, and the device takes work again."""
    before = json.loads(run("submit", "sample_tasks.where", "--device", "gpu1", "--wait", env=mesh.env).stdout)
    seen = mesh.log.read_text(errors="replace").count("gpu1@desk ready.")
    os.kill(before["parent"], signal.SIGKILL)
    wait_for(lambda: mesh.log.read_text(errors="replace").count("gpu1@desk ready.") > seen, "gpu1 back", START_S)
    after = json.loads(run("submit", "sample_tasks.where", "--device", "gpu1", "--wait", env=mesh.env).stdout)
    assert after["worker"] == "gpu1@desk"
    assert after["parent"] != before["parent"]
    assert not psutil.pid_exists(before["pid"])


def test_a_killed_redis_comes_back_with_its_data(mesh: Mesh) -> None:
    """The workers reconnect by themselves, and what was there before is there after (append-only file)."""
    before = {task["id"] for task in mesh.json("tasks", "--finished")}
    (redis,) = [child for child in mesh.process_tree() if "redis-server" in " ".join(child.cmdline())]
    redis.kill()
    wait_for(lambda: not redis.is_running(), "Redis to die")
    wait_for(lambda: run("queues", env=mesh.env).returncode == 0, "Redis to be back")
    ran = run("submit", "test", '["after"]', "--wait", "--timeout", "60", env=mesh.env)
    assert ran.returncode == 0, ran.stderr
    assert before <= {task["id"] for task in mesh.json("tasks", "--finished")}


def test_a_second_up_is_refused(mesh: Mesh) -> None:
    """Two `up`s of one state folder do not fight."""
    ran = run("up", "--devices", "cpu", env={**mesh.env, "NODE_NAME": "other"})
    assert ran.returncode != 0
    assert str(mesh.process.pid) in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_name_in_use_is_refused(mesh: Mesh) -> None:
    """Two nodes with one name: a clear error, and the first one stays."""
    ran = run("worker", "--devices", "cpu", env=mesh.env)
    assert ran.returncode == 78
    assert "'desk'" in ran.stderr
    assert "NODE_NAME" in ran.stderr
    assert "Traceback" not in ran.stderr
    (node,) = mesh.json("nodes")
    assert node["status"] == "online"


def test_a_second_node_joins_without_a_restart(mesh: Mesh, tmp_path: Path) -> None:
    """N3: capacity grows as nodes join; a node that leaves is offline at once."""
    env = {**mesh.env, "NODE_NAME": "attic", "GPU_MESH_BROKER_URL": address(Path(mesh.env["GPU_MESH_STATE_DIR"])).url}
    with gpu_mesh("worker", "--devices", "fake:RTX 2060:8", log=tmp_path / "log", ready="gpu0@attic ready.", env=env):
        names = {node["name"]: node["status"] for node in mesh.json("nodes")}
        assert names == {"attic": "online", "desk": "online"}
        ran = run("submit", "sample_tasks.where", "--node", "attic", "--wait", env=mesh.env)
        assert json.loads(ran.stdout)["worker"] == "gpu0@attic"
    names = {node["name"]: node["status"] for node in mesh.json("nodes")}
    assert names == {"attic": "offline", "desk": "online"}


def test_a_port_of_flower_that_is_taken(tmp_path: Path) -> None:
    """Said before anything starts, with the setting's name."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        env = {**environment(tmp_path, "late"), "GPU_MESH_FLOWER_PORT": str(other.getsockname()[1])}
        ran = run("up", "--flower", "--devices", "cpu", env=env)
    assert ran.returncode == 78
    assert "GPU_MESH_FLOWER_PORT" in ran.stderr
    assert "started" not in ran.stdout


class Flower:
    """The mesh's own, through its API."""

    def __init__(self, mesh: Mesh) -> None:
        self._url = f"http://127.0.0.1:{mesh.env['GPU_MESH_FLOWER_PORT']}"

    def get(self, path: str) -> dict[str, Any]:
        """What it answers; nothing while it does not."""
        try:
            with urllib.request.urlopen(self._url + path, timeout=10) as answer:
                return dict(json.load(answer))
        except OSError:
            return {}

    def status(self, path: str, method: str = "GET") -> int:
        """How it answers."""
        try:
            with urllib.request.urlopen(urllib.request.Request(self._url + path, method=method), timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as exc:
            return exc.code

    def queues(self, worker: str) -> list[str]:
        """What a worker consumes, by its page."""
        found = self.get("/api/workers?refresh=1")
        return [queue["name"] for queue in found.get(worker, {}).get("active_queues", [])]

    def state(self, task_id: str) -> str | None:
        """A task's, by its page."""
        return self.get(f"/api/task/info/{task_id}").get("state")


@pytest.fixture
def flower(mesh: Mesh) -> Flower:
    """It answers, and knows the workers."""
    found = Flower(mesh)
    wait_for(lambda: found.queues("gpu0@desk") == list(GPU_QUEUES), "Flower's workers", 40)
    return found


def test_flower_shows_workers_and_queues(mesh: Mesh, flower: Flower) -> None:
    """Its worker and broker pages, also while a queue is paused: workers let go of it and take it back."""
    everybody = {"gpu0@desk", "gpu1@desk", "control@desk", "cpu@desk"}
    # It asks for a second, and shows who answered in it.
    wait_for(lambda: set(flower.get("/api/workers?refresh=1")) == everybody, "all workers", 20)
    lengths = {queue["name"]: queue["messages"] for queue in flower.get("/api/queues/length")["active_queues"]}
    assert {name: lengths[name] for name in GPU_QUEUES} == dict.fromkeys(GPU_QUEUES, 0)
    assert run("pause", "ai-batch", env=mesh.env).returncode == 0
    wait_for(lambda: flower.queues("gpu0@desk") == list(GPU_QUEUES[:-1]), "ai-batch to be let go of")
    assert run("resume", "ai-batch", env=mesh.env).returncode == 0
    wait_for(lambda: flower.queues("gpu0@desk") == list(GPU_QUEUES), "ai-batch to be taken back")
    for page in ("/workers", "/worker/gpu0@desk", "/tasks", "/broker"):
        assert flower.status(page) == 200


def test_flower_shows_a_preempted_task(mesh: Mesh, flower: Flower, tmp_path: Path) -> None:
    """R3: RETRY while it waits for its second run, then SUCCESS. The mesh's own tasks are not in the list."""
    gate, hold = tmp_path / "gate", tmp_path / "hold"
    gate.touch()
    args = json.dumps([str(tmp_path / "ledger"), str(gate)])
    batch = run("submit", "yielding.count", args, "--queue", "ai-batch", "--device", "gpu1", env=mesh.env)
    task = batch.stdout.strip()
    wait_for(lambda: flower.state(task) == "STARTED", "the batch job")
    hold.touch()
    urgent = run(
        *("submit", "yielding.deaf", json.dumps([str(tmp_path / "other"), str(hold)])),
        *("--queue", "ai-realtime", "--device", "gpu1"),
        env=mesh.env,
    )
    wait_for(lambda: flower.state(task) == "RETRY", "the preemption")
    hold.unlink()
    wait_for(lambda: flower.state(task) == "STARTED", "the second run")
    gate.unlink()
    wait_for(lambda: flower.state(task) == "SUCCESS", "its end")
    names = {told["name"] for told in flower.get("/api/tasks").values()}
    assert names >= {"yielding.count", "yielding.deaf"}
    assert not [name for name in names if name and name.startswith("mesh.")]
    assert flower.state(urgent.stdout.strip()) == "SUCCESS"


def test_flower_changes_nothing(mesh: Mesh, flower: Flower) -> None:
    """Any web page that its user opens could ask it to: without a login it only shows."""
    assert flower.status("/api/worker/shutdown/gpu0@desk", "POST") == 403
    assert flower.status("/api/task/send-task/test", "POST") == 403


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def test_stop_is_orderly_and_data_survives(tmp_path: Path) -> None:
    """SIGTERM ends all and leaves nothing; what waited is there after the next start."""
    env = environment(tmp_path, "keeper")
    # A queue that only the sender knows: nobody consumes it.
    sender = {**env, "GPU_MESH_CPU_QUEUES": "spare"}
    log = tmp_path / "first.log"
    with gpu_mesh("up", "--devices", "cpu", log=log, ready=LAST_LINE, env=env) as process:
        await_ready(log, ["cpu0@keeper"])
        sent = run("submit", "test", '["kept"]', "--queue", "spare", env=sender)
        assert sent.returncode == 0, sent.stderr
        running = descendants(process.pid)
        assert len(running) >= 5
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0, log.read_text(errors="replace")
        assert psutil.wait_procs(running, timeout=5)[1] == []
    text = log.read_text(errors="replace")
    assert text.index("beat stopped") < text.index("cpu0 stopped") < text.index("redis stopped")
    assert "without a goodbye" not in text
    with gpu_mesh("up", "--devices", "cpu", log=tmp_path / "second.log", ready="redis started", env=env):
        waiting = wait_for(lambda: run("tasks", "--waiting", "--json", env=sender).stdout, "the next start")
    assert [task["id"] for task in json.loads(waiting)] == [sent.stdout.strip()]


def test_nothing_is_left_after_sigkill(tmp_path: Path) -> None:
    """No orphan of a supervisor that was killed, Redis and pool children included; the next `up` starts."""
    env = environment(tmp_path, "victim")
    log = tmp_path / "first.log"
    with gpu_mesh("up", "--devices", "cpu", log=log, ready=LAST_LINE, env=env) as process:
        await_ready(log, ["cpu0@victim", "control@victim"])
        sent = run("submit", "test", '["kept"]', "--queue", "rfa-reminders", "--wait", env=env)
        assert sent.returncode == 0, sent.stderr
        running = descendants(process.pid)
        names = {child.name() for child in running}
        assert any("redis" in name for name in names), names
        process.kill()
        process.wait(5)
        assert psutil.wait_procs(running, timeout=10)[1] == []
    second = tmp_path / "second.log"
    with gpu_mesh("up", "--devices", "cpu", log=second, ready=LAST_LINE, env=env):
        finished = run("tasks", "--finished", "--json", env=env)
        assert [task["state"] for task in json.loads(finished.stdout)] == ["SUCCESS"]


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    """A job that would go on for a minute does not hold up an operator who insists."""
    env = {**environment(tmp_path, "hasty"), "GPU_MESH_STOP_TIMEOUT_S": "60"}
    log = tmp_path / "up.log"
    with gpu_mesh("up", "--devices", "cpu", log=log, ready=LAST_LINE, env=env) as process:
        await_ready(log, ["cpu0@hasty"])
        marker = tmp_path / "job"
        run("submit", "sample_tasks.hold", json.dumps([str(marker), 60]), env=env)
        wait_for(marker.is_file, "the job to start")
        running = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        wait_for(lambda: "cpu0 stopping" in log.read_text(errors="replace"), "the first signal to be seen")
        process.send_signal(signal.SIGINT)
        process.wait(15)
        assert psutil.wait_procs(running, timeout=5)[1] == []
