"""An event loop that hangs while the worker's threads live must lose its lease (DESIGN §6)."""

from __future__ import annotations

import psutil
from bare_workers import Mesh
from waiting import wait_for

LEASE_S = 1.0


def test_a_worker_whose_loop_hangs_loses_its_job(fleet: Mesh):
    """DESIGN §6: its claim is another's; back again, it ends its own run and works on."""
    fleet.workers("n1", "n2", GPU_MESH_LEASE_TTL_S=f"{LEASE_S:g}", GPU_MESH_INCLUDE="ledger_tasks,resuming_tasks")
    gate, hang = fleet.folder / "gate", fleet.folder / "hang"
    task = fleet.hold(gate, queue="customer")
    first = fleet.started(task)
    child = fleet.ledger.starts(task)[0].pid
    hanging = next(worker for worker in fleet.all_workers if worker.name == first)

    # A worker is ready a moment before it hears what is broadcast.
    ask = {"reply": True, "limit": 1, "timeout": 1, "destination": [first]}
    wait_for(lambda: fleet.app.control.broadcast("ping", **ask), "an answer")
    hang.touch()
    fleet.app.control.broadcast("hang_loop", arguments={"gate": str(hang)}, destination=[first])

    other = fleet.started(task, 2)
    assert other != first
    assert "event loop hangs" in hanging.log.read_text()
    assert psutil.pid_exists(child)
    hang.unlink()
    wait_for(lambda: "lease lost" in hanging.log.read_text(), "the worker's return")
    wait_for(lambda: not psutil.pid_exists(child), "the end of its own run")
    # It works again, and did not take back what runs elsewhere.
    gate2 = fleet.folder / "gate2"
    assert fleet.started(fleet.hold(gate2, queue="customer")) == first
    assert fleet.app.AsyncResult(task).state == "STARTED"
    gate.unlink()
    assert fleet.app.AsyncResult(task).get(timeout=20) == other
    gate2.unlink()
    fleet.settled()
    assert fleet.ledger.ends()[task] == 1
