"""Jobs of several devices on a node of two, with real processes (issue 3; SPEC P1, P5)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from bare_workers import Mesh, mesh
from processes import gpu_mesh
from waiting import wait_for

from gpu_mesh.store import journal

NODE = "pair"
DEVICES = "fake:RTX 4090:24,fake:RTX 4090:24"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A supervised node with two pretended GPUs, both ready."""
    folder = tmp_path_factory.mktemp("teams")
    with mesh(folder) as found:
        log = folder / "node.log"
        with gpu_mesh("worker", "--devices", DEVICES, log=log, env=found.env(NODE_NAME=NODE)):
            for name in ("gpu0", "gpu1"):
                wait_for(lambda name=name: f"{name}@{NODE} ready" in log.read_text(), f"{name} ready", 30)
            yield found


def running(found: Mesh) -> list[dict]:
    with found.server.client() as client:
        return journal.running(client)


def test_a_job_of_two_has_both_devices_to_itself(node: Mesh, tmp_path: Path):
    """P1: its sibling runs nothing beside it, and something after it. The job is told which devices it has."""
    gate = tmp_path / "gate"
    pair = node.hold(gate, queue="customer", gpu_count=2)
    holder = node.started(pair)
    sibling = f"gpu{1 - int(holder[3])}@{NODE}"
    assert [(entry["worker"], entry["siblings"]) for entry in running(node)] == [(holder, [sibling])]
    single = node.send(queue="revenue")
    log = node.folder / "node.log"
    wait_for(lambda: f"may not claim: serves a job of {holder}" in log.read_text(), "the sibling to look")
    with node.server.client() as client:
        assert client.llen("revenue:6") == 1
    assert node.ledger.starts(single) == []
    gate.unlink()
    node.ended(pair, single)
    node.settled()


def test_a_job_of_two_waits_for_a_busy_device(node: Mesh, tmp_path: Path):
    """The idle one is kept for it, and the last to come free begins it."""
    busy, idle = tmp_path / "busy", tmp_path / "idle"
    first = node.hold(busy, queue="internal")
    node.started(first)
    pair = node.hold(idle, queue="internal", gpu_count=2)
    behind = node.send(queue="internal")
    with node.server.client() as client:
        wait_for(lambda: client.hexists("gpumesh:gather", NODE), "the idle device to be kept")
    assert node.ledger.starts(behind) == []
    busy.unlink()
    node.started(pair)
    assert node.ledger.starts(behind) == []
    idle.unlink()
    node.ended(first, pair, behind)
    node.settled()


def test_the_sibling_is_free_when_the_holder_dies(node: Mesh, tmp_path: Path):
    """F1: SIGKILL of the holder's worker; the job runs again on both, the sibling was not lost."""
    gate = tmp_path / "gate"
    pair = node.hold(gate, queue="customer", gpu_count=2)
    node.started(pair)
    os.kill(psutil.Process(node.ledger.starts(pair)[0].pid).ppid(), signal.SIGKILL)
    node.started(pair, 2)
    wait_for(lambda: [len(entry["siblings"]) for entry in running(node)] == [1], "the job on both devices")
    gate.unlink()
    node.ended(pair)
    node.settled()
    assert node.ledger.ends() == {**node.ledger.ends(), pair: 1}
    singles = [node.hold(tmp_path / f"single {i}", queue="revenue") for i in range(2)]
    assert {node.started(task) for task in singles} == {f"gpu0@{NODE}", f"gpu1@{NODE}"}
    for i in range(2):
        (tmp_path / f"single {i}").unlink()
    node.ended(*singles)
    node.settled()


def test_a_critical_task_names_its_standby(node: Mesh, tmp_path: Path):
    """P5: from the first such task on, and it is seen."""
    gate = tmp_path / "gate"
    task = node.hold(gate, queue="customer", priority=10, memory_gb=3)
    holder = node.started(task)
    (entry,) = running(node)
    assert {holder, entry["standby"]} == {f"gpu0@{NODE}", f"gpu1@{NODE}"}
    gate.unlink()
    node.ended(task)
    node.settled()
