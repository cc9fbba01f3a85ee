"""Workers that are stopped, and workers that are frozen past their lease (DESIGN §6, §9)."""

from __future__ import annotations

import signal

import psutil
from bare_workers import Mesh
from waiting import wait_for

from gpu_mesh.store import keys

LEASE_S = 2.0
SHORT = {"GPU_MESH_LEASE_TTL_S": f"{LEASE_S:g}"}


def _leases(fleet: Mesh) -> list[str]:
    with fleet.server.client() as client:
        return sorted(map(str, client.zrange(f"{keys.PREFIX}leases", 0, -1)))


def test_a_warm_stop_lets_the_job_finish(fleet: Mesh):
    """DESIGN §6: SIGTERM mid-job: the lease outlives it, the job runs once, then neither lease nor claim is left."""
    one, two = fleet.workers("n1", "n2", **SHORT)
    gate = fleet.folder / "gate"
    task = fleet.hold(gate, queue="customer")
    stopped, other = (one, two) if fleet.started(task) == one.name else (two, one)

    stopped.send(signal.SIGTERM)
    wait_for(lambda: "Warm shutdown" in stopped.log.read_text(), "a warm stop")
    # What is sent now is for the other one, also past a lease: the stopping one keeps its own.
    tasks = [fleet.send(0.5, queue="customer") for _ in range(6)]
    fleet.ended(*tasks)
    assert _leases(fleet) == [one.name, two.name]
    gate.unlink()

    wait_for(lambda: not stopped.alive(), "the end of the worker")
    fleet.ended(task)
    assert _leases(fleet) == [other.name]
    assert fleet.claims() == []
    assert fleet.ledger.ends() == dict.fromkeys([task, *tasks], 1)
    assert {fleet.ledger.starts(sent)[0].worker for sent in tasks} == {other.name}


def test_an_idle_worker_leaves_nothing_behind(fleet: Mesh):
    """DESIGN §6: stopped while idle: no lease, no claim, not among the idle ones that a publish would wake."""
    [worker] = fleet.workers("n1")
    fleet.ended(fleet.send(queue="customer"))
    worker.send(signal.SIGTERM)
    wait_for(lambda: not worker.alive(), "the end of the worker")
    assert worker.process is not None
    assert worker.process.returncode == 0
    assert _leases(fleet) == []
    assert fleet.claims() == []
    with fleet.server.client() as client:
        assert client.zrange(f"{keys.PREFIX}idle", 0, -1) == []


def test_a_worker_frozen_past_its_lease_loses_its_job(fleet: Mesh):
    """DESIGN §9: SIGSTOP, the job moves, SIGCONT: its own run is killed, and it works on."""
    one, two = fleet.workers("n1", "n2", **SHORT)
    gate = fleet.folder / "gate"
    task = fleet.hold(gate, queue="customer")
    frozen, other = (one, two) if fleet.started(task) == one.name else (two, one)
    child = fleet.ledger.starts(task)[0].pid
    frozen.freeze()
    try:
        assert fleet.started(task, 2) == other.name
    finally:
        frozen.thaw()
    wait_for(lambda: not _runs(child), "the end of the first run")
    gate.unlink()
    fleet.ended(task)
    fleet.settled()
    assert fleet.ledger.ends() == {task: 1}
    other.kill()
    # What the dead one may have claimed since is not at stake: this one gets the next task.
    last = fleet.send(queue="customer")
    assert fleet.started(last) == frozen.name


def test_a_late_ack_changes_nothing(fleet: Mesh):
    """DESIGN §6: only the parent is frozen, its child ends the job that another worker now has: the claim stays."""
    one, two = fleet.workers("n1", "n2", **SHORT)
    task = fleet.send(2 * LEASE_S, queue="customer")
    frozen, other = (one, two) if fleet.started(task) == one.name else (two, one)
    frozen.send(signal.SIGSTOP)
    try:
        assert fleet.started(task, 2) == other.name
        fleet.ended(task)
    finally:
        frozen.send(signal.SIGCONT)
    wait_for(lambda: "lease lost" in frozen.log.read_text(), "the frozen worker's return")
    assert fleet.claims() == [keys.claims(other.name)]
    # The lease's end is known to the child without a word of its frozen parent.
    assert "outcome dropped" in frozen.log.read_text()
    wait_for(lambda: fleet.ledger.ends()[task] == 2, "the second run's end")
    fleet.settled()
    assert len(fleet.ledger.starts(task)) == 2
    fleet.ended(fleet.send(queue="customer"), fleet.send(queue="customer"))


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
