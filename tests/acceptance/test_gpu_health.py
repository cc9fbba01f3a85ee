"""What real workers say of themselves when asked (SPEC H1), on an NVML and an Ollama that a test breaks."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from gpus import Gpus
from ollama_stub import OllamaStub
from processes import START_S, gpu_mesh, runs
from redis_servers import free_port
from sample_tasks import add
from two_gpus import purge
from waiting import wait_for

from gpu_mesh import app
from gpu_mesh.services import lookup
from gpu_mesh.settings import settings
from gpu_mesh.store import repairs
from gpu_mesh.store.client import connect

NODE = "sick"
GPU0, GPU1 = f"gpu0@{NODE}", f"gpu1@{NODE}"


@dataclass
class Node:
    """One with two NVIDIA GPUs. The first is bound to an Ollama, the second to one that the node starts itself."""

    gpus: Gpus
    stub: OllamaStub
    #: Address of the second's.
    own_url: str
    log: Path
    process: subprocess.Popen[bytes]

    def report(self, worker: str) -> dict[str, Any]:
        """What a worker says now."""
        replies = app.control.broadcast("gpu_health", reply=True, destination=[worker], timeout=10, limit=1)
        assert replies, self.log.read_text()
        return dict(replies[0][worker])

    def await_report(self, worker: str, condition: Callable[[dict[str, Any]], Any], what: str) -> dict[str, Any]:
        """The first report of which `condition` is true."""

        def seen() -> dict[str, Any] | None:
            report = self.report(worker)
            return report if report["system"] is not None and condition(report) else None

        found = wait_for(seen, what)
        assert found is not None
        return found


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, empty_redis: object) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("sick")
    gpus, log, port = Gpus(folder / "gpus.json"), folder / "worker.log", free_port()
    own_url, program = f"http://127.0.0.1:{port}", Path(__file__).parents[1] / "support" / "ollama_stub.py"
    with OllamaStub() as stub:
        env = {
            **gpus.env,
            "NODE_NAME": NODE,
            "GPU_MESH_ENGINE_URLS": f"gpu0={stub.url},gpu1={own_url}",
            "GPU_MESH_ENGINE_RESTART": f"gpu1={shlex.join([sys.executable, str(program), str(port)])}",
            "GPU_MESH_HEALTH_EVERY_S": "0.5",
        }
        # Without beat: nobody checks, and has the engines restarted.
        with (
            gpu_mesh("worker", "--devices", "nvidia", log=log, ready=f"{GPU0} ready", env=env, stop=False) as process,
            gpu_mesh("control", log=folder / "control.log", ready=f"control@{NODE} ready", env=env),
        ):
            for name, told in ((GPU1, log), (f"cpu@{NODE}", folder / "control.log")):
                wait_for(lambda name=name, told=told: f"{name} ready" in told.read_text(), f"{name} in {told}", START_S)
            yield Node(gpus, stub, own_url, log, process)


def test_celery_inspect_knows_it(node: Node) -> None:
    """H1: every worker of the node answers the stock command; those without a device have none to tell of."""
    node.await_report(GPU0, lambda report: report["engines"], "a report of the engine")
    words = ["-m", "celery", "-A", "gpu_mesh", "inspect", "gpu_health", "--json", "--timeout", "10"]
    words += ["--destination", ",".join(f"{name}@{NODE}" for name in ("gpu0", "gpu1", "control", "cpu"))]
    ran = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=dict(os.environ), timeout=60)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told.keys() == {GPU0, GPU1, f"control@{NODE}", f"cpu@{NODE}"}
    for worker, report in told.items():
        assert report["worker"] == worker
        assert report["age_s"] < 10
        assert report["taken_at"] > 1.7e9
        assert 0 < report["system"]["memory"] < 1
        assert 0 < report["system"]["disk"] < 1
        assert abs(report["system"]["skew_s"]) < 2
        assert report["system"]["error"] is None
    assert told[f"control@{NODE}"]["device"] is told[f"cpu@{NODE}"]["device"] is None
    assert (told[GPU0]["device"]["temperature_c"], told[GPU0]["device"]["memory_total_gb"]) == (61.0, 24.0)
    [down] = told[GPU1]["engines"]
    assert (down["url"], down["reachable"], down["ms"]) == (node.own_url, False, None)
    [engine] = told[GPU0]["engines"]
    assert (engine["name"], engine["url"], engine["reachable"]) == ("ollama", node.stub.url, True)
    assert "gemma4:e4b" in engine["models"]
    assert engine["ms"] > 0


def test_a_gpu_that_is_ill(node: Node) -> None:
    """H1: heat and throttling are warnings, an error of the driver and a lost card faults, of that GPU alone."""
    node.gpus.set(0, temperature=91, throttle=0x40)
    hot = node.await_report(GPU0, lambda report: len(report["device"]["warnings"]) == 2, "a hot GPU")
    assert hot["device"]["throttles"] == ["thermal"]
    assert hot["device"]["faults"] == []
    node.gpus.xid(0, 119)
    node.await_report(GPU0, lambda report: report["device"]["faults"], "an error of the driver")
    node.gpus.lose(0)
    lost = node.await_report(GPU0, lambda report: report["device"].get("error"), "a lost GPU")
    assert lost["device"]["hard"]
    assert "it fell off the bus" in lost["device"]["error"]
    assert lost["engines"][0]["reachable"]
    assert node.report(GPU1)["device"]["faults"] == []
    node.gpus.reset(0)
    node.await_report(GPU0, lambda report: "error" not in report["device"], "the GPU back")


def test_a_driver_that_hangs_holds_up_no_answer(node: Node) -> None:
    """H1: the latest report is told at once, and says how old it is."""
    node.gpus.hang("nvmlDeviceGetMemoryInfo")
    try:
        node.await_report(GPU1, lambda report: report["age_s"] > 1, "an old report")
    finally:
        node.gpus.hang()
    node.await_report(GPU1, lambda report: report["age_s"] < 0.5, "a new report")


def test_an_engine_that_does_not_answer(node: Node) -> None:
    """H1: it says so in words, and the rest of the report is whole."""
    node.stub.crash()
    down = node.await_report(GPU0, lambda report: not report["engines"][0]["reachable"], "an engine that is down")
    assert node.stub.url in down["engines"][0]["error"]
    assert down["engines"][0]["ms"] is None
    assert down["device"]["temperature_c"] == 61.0
    node.stub.start()
    node.await_report(GPU0, lambda report: report["engines"][0]["reachable"], "the engine back")


def test_memory_that_a_stranger_holds_is_not_offered(node: Node) -> None:
    """P6: a task that fits the empty card waits while somebody else has the memory, is told so, and runs after."""
    # No child of ours: the engine is in our process, and what it starts is the engine's.
    shell = subprocess.run(["sh", "-c", "sleep 100 >&- 2>&- & echo $!"], stdout=subprocess.PIPE, text=True, check=True)
    stranger = int(shell.stdout)
    try:
        for index in (0, 1):
            node.gpus.hold(index, stranger, 14.0)
        for worker in (GPU0, GPU1):
            node.await_report(worker, lambda report: report["held_gb"] == 14.0, "a stranger")
        waiting = add.apply_async((1, 2), memory_gb=20)
        assert add.apply_async((3, 4), memory_gb=5).get(timeout=20) == 7
        [told] = [task for task in lookup.waiting_tasks(settings()) if task.id == waiting.id]
        assert told.state == lookup.WAITING
        assert "24 GB less 1 GB margin and 14 GB that other programs hold" in str(told.why)
        node.gpus.reset(1)
        assert waiting.get(timeout=20) == 3
    finally:
        os.kill(stranger, signal.SIGKILL)
        node.gpus.reset(0)
        purge()


def test_the_node_restarts_its_engine_and_takes_it_along(node: Node) -> None:
    """H4: by its supervisor, as often as it is ordered; a SIGKILL of that leaves no server behind."""
    pids = set()
    with connect(settings()) as client:
        for attempt in (1, 2):
            order = repairs.order(client, NODE, GPU1, node.own_url, attempt)
            [done] = wait_for(
                lambda order=order: [one for one in repairs.history(client) if one.order.id == order], "a repair"
            )
            assert done.outcome == repairs.RECOVERED, done
            node.await_report(GPU1, lambda report: report["engines"][0]["reachable"], "the engine")
            [server] = [
                child
                for child in psutil.Process(node.process.pid).children()
                if any(word.endswith("ollama_stub.py") for word in child.cmdline())
            ]
            pids.add(server.pid)
            if attempt == 1:
                server.kill()
                node.await_report(GPU1, lambda report: not report["engines"][0]["reachable"], "its death")
    assert len(pids) == 2
    node.process.kill()
    node.process.wait()
    wait_for(lambda: not any(map(runs, pids)), "the server's end")
