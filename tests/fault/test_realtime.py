"""A realtime job holds ai-batch back while it runs, and never longer, however it ends (SPEC R3; DESIGN §7, §9)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bare_workers import BareWorker, Mesh, mesh
from waiting import wait_for

from gpu_mesh.domain.queues import GPU_QUEUES
from gpu_mesh.store import gates, holds, keys

#: Lease of the workers, s; deliveries after which a message is dead.
LEASE_S, DELIVERIES = 1.2, 2
#: Limit of a job that is to run into it, s.
LIMIT_S = 0.8


@pytest.fixture(scope="module")
def duo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Two bare workers; a realtime job of the one holds the other back too."""
    with mesh(tmp_path_factory.mktemp("duo")) as found:
        env = {"GPU_MESH_LEASE_TTL_S": f"{LEASE_S:g}", "GPU_MESH_MAX_DELIVERIES": str(DELIVERIES)}
        found.workers("n1", "n2", GPU_MESH_PAUSE_SCOPE="mesh", GPU_MESH_INCLUDE="ending_tasks", **env)
        yield found


@pytest.fixture
def both(duo: Mesh) -> Mesh:
    """The duo, both up and idle, nothing held back."""
    duo.revive()
    duo.settled()
    wait_for(lambda: len(_idle(duo, "ai-batch")) == 2, "both to be idle")
    return duo


def _idle(fleet: Mesh, queue: str) -> list[str]:
    with fleet.server.client() as client:
        return client.zrange(f"gpumesh:idle:{queue}", 0, -1)


def _begin(fleet: Mesh, how: str, gate: Path, **options: Any) -> tuple[str, BareWorker, str]:
    """A realtime job that runs, its worker, and a batch job that the other, idle worker has seen and left alone."""
    gate.touch()
    options = {"queue": "ai-realtime", **options}
    job = str(fleet.app.send_task("ending.end", [str(fleet.ledger.path), str(gate), how], **options).id)
    name = fleet.started(job)
    batch = fleet.send(queue="ai-batch")
    worker, other = sorted(fleet.all_workers, key=lambda worker: worker.name != name)
    wait_for(lambda: _idle(fleet, "ai-batch@*") == [other.name], "the idle worker to be held back")
    assert fleet.ledger.starts(batch) == []
    return job, worker, batch


def _child(fleet: Mesh, job: str) -> int:
    return fleet.ledger.starts(job)[-1].pid


#: How a realtime job ends: what it does itself, what it is sent with, and what is done to it (mesh, job, worker).
ENDINGS: dict[str, tuple[str, dict[str, Any], Callable[[Mesh, str, BareWorker], object]]] = {
    "success": ("return", {}, lambda *_: None),
    "failure": ("raise", {}, lambda *_: None),
    "retry": ("retry", {}, lambda *_: None),
    "rejected": ("reject", {}, lambda *_: None),
    "customer": ("return", {"queue": "customer"}, lambda *_: None),
    "revoked": ("return", {}, lambda fleet, job, _: fleet.app.control.revoke(job, terminate=True)),
    "soft limit": ("return", {"soft_time_limit": LIMIT_S}, lambda *_: None),
    "hard limit": ("return", {"time_limit": LIMIT_S}, lambda *_: None),
    "child killed": ("return", {}, lambda fleet, job, _: os.kill(_child(fleet, job), signal.SIGKILL)),
    "worker killed": ("return", {}, lambda fleet, job, worker: worker.kill()),
    "worker frozen": ("return", {}, lambda fleet, job, worker: worker.freeze()),
}
#: Endings that happen while the job is still busy.
ABRUPT = {"revoked", "soft limit", "hard limit"}
#: Endings after which the job runs again.
AGAIN = {"child killed", "worker killed", "worker frozen"}


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_resumes_batch(both: Mesh, tmp_path: Path, ending: str):
    """R3: whatever becomes of the realtime job, the batch job runs then, and nothing is held back any more."""
    how, options, do = ENDINGS[ending]
    gate = tmp_path / "gate"
    job, worker, batch = _begin(both, how, gate, **options)
    do(both, job, worker)
    if ending in AGAIN:
        both.started(job, 2)
        assert both.ledger.starts(batch) == []
    if ending not in ABRUPT:
        gate.unlink()
    try:
        both.ended(batch)
    finally:
        gate.unlink(missing_ok=True)
        if ending == "worker frozen":
            worker.thaw()
    if ending == "retry":
        both.started(job, 2)  # else it holds batch work back in the next test
    both.settled()
    with both.server.client() as client:
        assert client.keys(keys.realtime("*")) == []
        assert holds.holds(client) == []
    if ending == "rejected":
        assert job in both.dead()[0]


def test_a_job_that_kills_its_workers_holds_nothing_back_as_a_dead_letter(both: Mesh, tmp_path: Path):
    """R3: a poisonous realtime job goes to the dead letters with its last worker; batch work runs on the revived."""
    job = str(both.app.send_task("ledger.poison", [str(both.ledger.path)], queue="ai-realtime").id)
    wait_for(lambda: sum(not worker.alive() for worker in both.all_workers) >= 1, "the first worker to die")
    both.started(job, DELIVERIES)
    both.revive()
    wait_for(lambda: any(job in letter for letter in both.dead()), "the dead letter")
    both.revive()
    batch = both.send(queue="ai-batch")
    both.ended(batch)
    with both.server.client() as client:
        assert client.keys(keys.realtime("*")) == []


def _active(fleet: Mesh) -> dict[str, list[str]]:
    """What `celery inspect active_queues` shows, by worker."""
    # A pooled connection may have been cut.
    with fleet.app.connection_for_write() as connection:
        told = (
            fleet.app.control.inspect(timeout=1, limit=len(fleet.all_workers), connection=connection).active_queues()
            or {}
        )
    return {name: [queue["name"] for queue in queues] for name, queues in told.items()}


def _show(fleet: Mesh, queues: tuple[str, ...], what: str) -> None:
    names = {worker.name for worker in fleet.all_workers}
    wait_for(lambda: _active(fleet) == {name: list(queues) for name in names}, what)


WITHOUT_BATCH = tuple(queue for queue in GPU_QUEUES if queue != "ai-batch")


def test_active_queues_show_the_pause(both: Mesh, tmp_path: Path):
    """R3, DESIGN §7: while a realtime job runs nobody in scope consumes ai-batch; then all do, in canonical order. A
    worker that starts meanwhile, a Redis that dies, and the reconnect, change nothing."""
    _show(both, GPU_QUEUES, "all queues")
    gate = tmp_path / "gate"
    job = both.hold(gate, queue="ai-realtime")
    _show(both, WITHOUT_BATCH, "the pause")
    busy = both.started(job)
    idle = next(worker for worker in both.all_workers if worker.name != busy)
    idle.kill()
    idle.start()
    both.server.kill()
    both.server.start()
    batch = both.send(queue="ai-batch")
    _show(both, WITHOUT_BATCH, "the pause after the reconnect")
    assert both.ledger.starts(batch) == []
    gate.unlink()
    both.ended(batch)
    _show(both, GPU_QUEUES, "all queues again")


def test_a_closed_queue_comes_back_at_its_place(both: Mesh):
    """Any gate in the worker's scope is shown so; what an operator cancelled meanwhile stays cancelled."""
    with both.server.client() as client:
        for queue in ("customer", "ai-realtime"):
            gates.close(client, queue, "manual")
        _show(both, ("revenue", "internal", "ai-batch"), "two closed queues")
        both.app.control.cancel_consumer("ai-realtime")
        gates.reopen(client, "ai-realtime", "manual")
        gates.reopen(client, "customer", "manual")
        _show(both, ("revenue", "customer", "internal", "ai-batch"), "the open one at its place")
        both.app.control.add_consumer("ai-realtime")
        wait_for(lambda: all("ai-realtime" in queues for queues in _active(both).values()), "it to be back")
