"""What runs on a device that is to be left goes on elsewhere (SPEC F2, F4), with real workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bare_workers import Mesh, mesh
from waiting import wait_for

from gpu_mesh.store import cordons

#: Longest wait for a result, s.
LIMIT_S = 20.0
#: Longer than any test.
LONG_S = 100.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with mesh(tmp_path_factory.mktemp("leaving")) as fleet:
        fleet.workers("n1", "n2", GPU_MESH_INCLUDE="ledger_tasks,resuming_tasks")
        yield fleet


@pytest.fixture
def fleet(running: Mesh) -> Iterator[Mesh]:
    yield running
    with running.server.client() as client:
        for one in cordons.all_cordons(client):
            cordons.lift(client, one.name, one.reason)
    running.settled()


def cordon(fleet: Mesh, name: str, yield_s: float | None) -> None:
    with fleet.server.client() as client:
        cordons.cordon(client, name, "health", why="off the bus", yield_s=yield_s)


def lift(fleet: Mesh, name: str) -> None:
    with fleet.server.client() as client:
        cordons.lift(client, name, "health")


def idles(fleet: Mesh, worker: str) -> bool:
    with fleet.server.client() as client:
        return client.zscore("gpumesh:idle:customer", worker) is not None


def node_of(worker: str) -> str:
    return worker.partition("@")[2]


def other(worker: str) -> str:
    return {"gpu0@n1": "gpu0@n2", "gpu0@n2": "gpu0@n1"}[worker]


def test_a_job_goes_on_elsewhere_from_its_checkpoint(fleet: Mesh, tmp_path: Path):
    """F2, F4: asked at its next checkpoint, and not counted as a delivery."""
    gate = tmp_path / "gate"
    gate.touch()
    sent = fleet.app.send_task("resuming.steps", [str(fleet.ledger.path), str(gate), 3], queue="customer")
    here = fleet.started(sent.id)
    cordon(fleet, node_of(here), LONG_S)
    assert fleet.started(sent.id, 2) == other(here)
    gate.unlink()
    began = sent.get(LIMIT_S)
    assert (len(began), began[0], began[1] > 0) == (2, 0, True)


def test_a_job_that_is_deaf_is_interrupted(fleet: Mesh, tmp_path: Path):
    """F4: after the time that the cordon gives it; the worker stays and takes nothing."""
    gate = tmp_path / "gate"
    job = fleet.hold(gate, queue="customer")
    here = fleet.started(job)
    cordon(fleet, here, 0.2)
    assert fleet.started(job, 2) == other(here)
    gate.unlink()
    fleet.ended(job)
    again = [fleet.send(queue="customer") for _ in range(3)]
    fleet.ended(*again)
    assert {fleet.ledger.starts(one)[0].worker for one in again} == {other(here)}


def test_a_job_that_was_asked_stays_where_the_cordon_ends(fleet: Mesh, tmp_path: Path):
    gate = tmp_path / "gate"
    job = fleet.hold(gate, queue="customer")
    here = fleet.started(job)
    log = next(one.log for one in fleet.all_workers if one.name == here)
    cordon(fleet, here, LONG_S)
    wait_for(lambda: f"{job} is to yield: off the bus" in log.read_text(), "the job to be asked")
    lift(fleet, here)
    gate.unlink()
    fleet.ended(job)
    assert len(fleet.ledger.starts(job)) == 1


def test_without_it_what_runs_goes_on(fleet: Mesh, tmp_path: Path):
    """A drain: nothing new, and what runs ends there."""
    gate = tmp_path / "gate"
    job = fleet.hold(gate, queue="customer")
    here = fleet.started(job)
    cordon(fleet, node_of(here), None)
    new = fleet.send(queue="customer")
    fleet.ended(new)
    assert fleet.ledger.starts(new)[0].worker == other(here)
    gate.unlink()
    fleet.ended(job)
    assert [start.worker for start in fleet.ledger.starts(job)] == [here]


def test_what_must_move_goes_before_what_can_wait(fleet: Mesh, tmp_path: Path):
    """F4: with one device left, batch work there makes room for the customer's job that had to leave the other."""
    gates = [tmp_path / name for name in ("batch", "customer")]
    for gate in gates:
        gate.touch()
    ledger = str(fleet.ledger.path)
    batch = fleet.app.send_task("resuming.steps", [ledger, str(gates[0]), 3], queue="ai-batch", node="n2")
    assert fleet.started(batch.id) == "gpu0@n2"
    fleet.ended(fleet.send(queue="customer", node="n1"))  # it may claim again, and is idle
    wait_for(lambda: fleet.claims() == ["gpumesh:claims:gpu0@n2"] and idles(fleet, "gpu0@n1"), "n1 to be idle")
    urgent = fleet.app.send_task("resuming.steps", [ledger, str(gates[1]), 3], queue="customer")
    assert fleet.started(urgent.id) == "gpu0@n1"
    cordon(fleet, "n1", LONG_S)
    assert fleet.started(urgent.id, 2) == "gpu0@n2"
    assert not {batch.id, urgent.id} & fleet.ledger.ends().keys()
    for gate in gates:
        gate.unlink()
    assert len(urgent.get(LIMIT_S)) == 2
    assert batch.get(LIMIT_S)[0] == 0
