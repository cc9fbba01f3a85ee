"""Workers without a supervisor, so that a "machine" can die, on a Redis of the test's own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from ledger_tasks import Ledger
from processes import START_S
from redis_servers import RedisServer
from waiting import wait_for

from gpu_mesh.celery import MeshCelery, configuration
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.domain.queues import GPU_QUEUES
from gpu_mesh.settings import Settings
from gpu_mesh.store import keys
from workers.gpu import environment, worker_argv
from workers.lifeline import parent_death_hook

__all__ = ["BareWorker", "KillableRedis", "Mesh", "mesh", "mesh_app"]


class KillableRedis(RedisServer):
    """A Redis with an append-only file that can die of SIGKILL and come back."""

    @property
    def _log_of_writes(self) -> Path:
        # Redis 7 keeps it in parts.
        return next(self.folder.glob("appendonlydir/*.incr.aof"), self.folder / "appendonly.aof")

    def written(self) -> int:
        """Bytes of its append-only file."""
        return self._log_of_writes.stat().st_size

    def lose_power(self, written: int) -> None:
        """Its machine dies: SIGKILL, and what was written after the first `written` bytes never reached the disk."""
        self.kill()
        os.truncate(self._log_of_writes, written)

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None


class SenderApp(MeshCelery):
    """The mesh's app for an address that is not this process's own."""

    def _check_broker(self) -> None:
        """Looks at the address of this process's settings: the test's own session."""


def mesh_app(url: str) -> MeshCelery:
    """An application of the mesh at `url`."""
    app = SenderApp("fault-tests", set_as_current=False)
    app.conf.update(configuration(Settings(broker_url=url)))
    return app


class BareWorker:
    """One device's worker, as its supervisor would start it, but without one."""

    def __init__(self, name: str, argv: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._argv, self._env = list(argv), {**os.environ, **env}
        self.process: subprocess.Popen[bytes] | None = None
        self._readies = 0

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self, *, wait: bool = True) -> BareWorker:
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self._argv,
                env=self._env,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # A test run that is itself killed leaves no workers behind.
                preexec_fn=parent_death_hook(),
            )
        self._readies += 1
        if wait:
            self.await_ready()
        return self

    def await_ready(self) -> None:
        wait_for(lambda: self.readies() >= self._readies or not self.alive(), f"{self.name} ready", START_S)
        assert self.alive(), self.log.read_text()

    def readies(self) -> int:
        return self.log.read_text(errors="replace").count(f"{self.name} ready")

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def children(self) -> list[int]:
        """Its pool children."""
        return [child.pid for child in psutil.Process(self.pid).children()]

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """The machine dies: SIGKILL to all of it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def freeze(self) -> None:
        """SIGSTOP to all of it."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT to all of it."""
        os.killpg(self.pid, signal.SIGCONT)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()


class Mesh:
    """A Redis, workers, an application and the ledger, for one test."""

    def __init__(self, folder: Path, server: KillableRedis) -> None:
        self.folder = folder
        self.server = server
        self.ledger = Ledger(folder / "ledger")
        self.app = mesh_app(server.url)
        self.all_workers: list[BareWorker] = []

    def env(self, url: str | None = None, **more: str) -> dict[str, str]:
        """What its processes find in their environment."""
        return {
            "GPU_MESH_BROKER_URL": url or self.server.url,
            "GPU_MESH_INCLUDE": "ledger_tasks",
            "GPU_MESH_STATE_DIR": str(self.folder),
            "PYTHONUNBUFFERED": "1",
            **more,
        }

    def worker(
        self,
        node: str,
        *,
        gpu: str = "gpu0",
        queues: Sequence[str] = GPU_QUEUES,
        url: str | None = None,
        device: bool = True,
        **env: str,
    ) -> BareWorker:
        """A bare worker `gpu0@node`, not started yet."""
        name = f"{gpu}@{node}"
        argv = worker_argv(name, queues, concurrency=1, log_level="INFO")
        own = environment(_device(node, gpu)) if device else {}
        found = self.env(url, NODE_NAME=node, **env)
        worker = BareWorker(name, argv, {**found, **own}, self.folder / f"{gpu}-{node}.log")
        self.all_workers.append(worker)
        return worker

    def workers(self, *nodes: str, **env: str) -> list[BareWorker]:
        """Bare workers, all ready."""
        found = [self.worker(node, **env).start(wait=False) for node in nodes]
        for worker in found:
            worker.await_ready()
        return found

    def revive(self) -> None:
        """Start those again that a test ended."""
        dead = [worker for worker in self.all_workers if not worker.alive()]
        for worker in dead:
            worker.start(wait=False)
        for worker in dead:
            worker.await_ready()

    def send(self, seconds: float = 0.0, **options: Any) -> str:
        """Submit a task that takes `seconds`; its id."""
        return str(self.app.send_task("ledger.work", [str(self.ledger.path), seconds], **options).id)

    def hold(self, gate: Path, **options: Any) -> str:
        """Submit a task that is busy while `gate` is there; its id."""
        gate.touch()
        return str(self.app.send_task("ledger.hold", [str(self.ledger.path), str(gate)], **options).id)

    def started(self, task: str, times: int = 1, timeout_s: float = 20.0) -> str:
        """Wait for the `times`-th start of a task; the worker that runs it."""
        wait_for(lambda: len(self.ledger.starts(task)) >= times, f"start {times} of {task}", timeout_s)
        return self.ledger.starts(task)[times - 1].worker

    def ended(self, *tasks: str, timeout_s: float = 20.0) -> None:
        """Wait until each has ended."""
        wanted = set(tasks)
        wait_for(lambda: wanted <= self.ledger.ends().keys(), f"the end of {len(wanted)} tasks", timeout_s)

    def claims(self) -> list[str]:
        """Keys of claims that are held."""
        with self.server.client() as client:
            return sorted(map(str, client.scan_iter(keys.claims("*"))))

    def settled(self, timeout_s: float = 20.0) -> None:
        """Wait until nothing is claimed any more."""
        wait_for(lambda: not self.claims(), "no claims", timeout_s)

    def dead(self) -> list[str]:
        """The dead letters, newest first."""
        with self.server.client() as client:
            return [str(entry) for entry in client.lrange(f"{keys.PREFIX}dead", 0, -1)]

    def close(self) -> None:
        """End the workers."""
        for worker in self.all_workers:
            worker.close()
        self.app.close()


def _device(node: str, gpu: str) -> Device:
    return Device(name=gpu, node=node, kind=DeviceKind.FAKE, gpu_type="A40", memory_gb=40.0)


@contextmanager
def mesh(folder: Path, *lines: str) -> Iterator[Mesh]:
    """A mesh in `folder`; everything it started ends with the block."""
    server = KillableRedis(folder / "redis", "appendfsync always", *lines)
    try:
        server.start()
        found = Mesh(folder, server)
        try:
            yield found
        finally:
            found.close()
    finally:
        server.stop()
