"""Processes of a benchmark's own, ended with it: Redis, workers of both sides, senders."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import redis

from benchmarks.ledger import Ledger
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.domain.queues import GPU_QUEUES
from gpu_mesh.store.embedded import find_server
from workers.gpu import environment as device_environment
from workers.lifeline import parent_death_hook

__all__ = ["ROOT", "RedisServer", "Sender", "Up", "Worker", "environment", "up", "wait_for"]

ROOT = Path(__file__).parents[1]
LOOPBACK = "127.0.0.1"
#: Between two looks, s: what a measured time may be off by where a ledger does not say it.
POLL_S = 0.01
#: How long a process may take to start on a slow machine, s.
START_S = 60.0
#: How long a mesh may take to stop, s.
STOP_S = 40.0
#: Options of stock workers and bare ones of ours.
WORKER_OPTIONS = ("--concurrency=1", "--pool=prefork", "--without-mingle", "--without-gossip", "--loglevel=INFO")

T = TypeVar("T")


def wait_for(condition: Callable[[], T], what: str, timeout_s: float = START_S) -> T:
    """The first true value of `condition`. Raises TimeoutError naming `what`."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        time.sleep(POLL_S)
    return value


def environment(side: str, url: str, folder: str | Path) -> dict[str, str]:
    """What a process of a side needs."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GPU_MESH_")}
    ours = {
        "GPU_MESH_BROKER_URL": url,
        "GPU_MESH_INCLUDE": "benchmarks.tasks",
        "GPU_MESH_STATE_DIR": str(folder),
        "GPU_MESH_PEAK_HOURS": "none",
        # In `realtime` more users come in a minute than the default allows for one batch job.
        "GPU_MESH_PREEMPT_LIMIT": "1000",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), env.get("PYTHONPATH")))),
        "PYTHONUNBUFFERED": "1",
    }
    return env | {"BENCH_BROKER": url} | (ours if side == "mesh" else {})


class RedisServer:
    """A `redis-server` on loopback with an append-only file; it can die of SIGKILL and come back."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = _free_port()
        self._argv = [
            *(str(find_server().path), "--bind", LOOPBACK, "--port", str(self.port), "--dir", str(folder)),
            *("--appendonly", "yes", "--save", "", *options),
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def url(self, database: int = 0) -> str:
        """As a broker URL."""
        return f"redis://{LOOPBACK}:{self.port}/{database}"

    def client(self) -> redis.Redis:
        """A client of the benchmark's own."""
        return redis.Redis(host=LOOPBACK, port=self.port, decode_responses=True)

    def start(self) -> float:
        """Run it; when it first answered, s since the epoch."""
        self.process = subprocess.Popen(self._argv, stdout=subprocess.DEVNULL, preexec_fn=parent_death_hook())
        wait_for(self._answers, "redis-server")
        return time.time()

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class Worker:
    """A worker without a supervisor, of stock Celery or of ours; in a process group of its own."""

    def __init__(self, side: str, node: str, url: str, folder: Path) -> None:
        self.name = f"gpu0@{node}"
        self.log = folder / f"{side}-{node}.log"
        module = ["celery", "-A", "benchmarks.stock"] if side == "stock" else ["workers"]
        queues = f"--queues={','.join(GPU_QUEUES)}"
        self._argv = [sys.executable, "-m", *module, "worker", f"--hostname={self.name}", queues, *WORKER_OPTIONS]
        self._env = environment(side, url, folder)
        if side == "mesh":
            device = Device(name="gpu0", node=node, kind=DeviceKind.FAKE, gpu_type="A40", memory_gb=40.0)
            self._env |= {"NODE_NAME": node, **device_environment(device)}
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    @property
    def pid(self) -> int:
        """Of its parent process, which leads the group."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Worker:
        """Run it, without waiting."""
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                self._argv,
                env=self._env,
                cwd=ROOT,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=parent_death_hook(),
            )
        self._starts += 1
        return self

    def ready(self) -> bool:
        """Whether it said so since its last start. Raises RuntimeError, with its log, when it died by itself."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended by itself:\n{self.log.read_text(errors='replace')[-4000:]}")
        return self.log.read_text(errors="replace").count(f"{self.name} ready") >= self._starts

    def await_ready(self) -> None:
        """Wait until it is."""
        wait_for(self.ready, f"{self.name}, see {self.log}")

    def children(self) -> list[int]:
        """Its pool children."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [child.pid for child in psutil.Process(self.pid).children()]
        return []

    def kill(self) -> None:
        """SIGKILL to the group: the machine is gone."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def workers(side: str, nodes: Sequence[str], url: str, folder: Path) -> Iterator[list[Worker]]:
    """Bare workers, all ready, killed with the block."""
    found = [Worker(side, node, url, folder) for node in nodes]
    try:
        for worker in found:
            worker.start()
        for worker in found:
            worker.await_ready()
        yield found
    finally:
        for worker in found:
            worker.kill()


class Sender:
    """Submits the tasks of benchmarks.tasks as one side's application."""

    def __init__(self, side: str, url: str, folder: Path) -> None:
        self.ledger = Ledger(folder / f"{side}.ledger")
        self._gates = folder
        self._argv = [sys.executable, "-m", "benchmarks.send", side]
        self._env = environment(side, url, folder)
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Sender:
        self._process = subprocess.Popen(
            self._argv, env=self._env, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def work(self, count: int = 1, seconds: float = 0.0, queues: Sequence[str] = ("internal",)) -> list[str]:
        """Send so many tasks that take `seconds`, over the queues in turn; their ids."""
        return self.send("benchmarks.tasks.work", [str(self.ledger.path), seconds], count, queues)

    def hold(self, gate: Path) -> str:
        """Send a task that is busy while `gate` is there; its id."""
        gate.touch()
        return self.send("benchmarks.tasks.hold", [str(self.ledger.path), str(gate)], 1, ("internal",))[0]

    def started(self, task: str, times: int = 1, timeout_s: float = START_S) -> float:
        """When the task started for the `times`-th time, s since the epoch; waits for it."""
        wait_for(lambda: len(self.ledger.starts(task)) >= times, f"start {times} of {task}", timeout_s)
        return self.ledger.starts(task)[times - 1].at

    def ended(self, task: str, timeout_s: float = START_S) -> None:
        """Wait until the task ended."""
        wait_for(lambda: self.ledger.ends()[task], f"the end of {task}", timeout_s)

    def send(self, task: str, args: Sequence[object], count: int, queues: Sequence[str]) -> list[str]:
        """Send so many of a task, over the queues in turn; their ids."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"task": task, "args": list(args), "count": count, "queues": list(queues)}
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        return list(json.loads(self._process.stdout.readline()))


@dataclass(frozen=True, slots=True)
class Up:
    """A whole mesh: its supervisor's pid, and its API's address."""

    pid: int
    api: str


@contextmanager
def up(folder: Path, node: str, devices: str) -> Iterator[Up]:
    """`gpu-mesh up` with a Redis and an API of its own, all ready; stopped with the block."""
    port = _free_port()
    env = environment("mesh", "", folder) | {
        **{"NODE_NAME": node, "GPU_MESH_LOCK_DIR": str(folder / "locks"), "GPU_MESH_API_PORT": str(port)},
    }
    del env["GPU_MESH_BROKER_URL"]
    log = folder / "up.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "gpu_mesh", "up", "--devices", devices],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=folder,
            start_new_session=True,
            preexec_fn=parent_death_hook(),
        )
    try:
        said = [*(f"{name}@{node} ready" for name in ("control", "cpu", "gpu0")), "serving http"]
        wait_for(lambda: all(words in log.read_text(errors="replace") for words in said), f"the mesh, see {log}")
        yield Up(process.pid, f"http://{LOOPBACK}:{port}")
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
