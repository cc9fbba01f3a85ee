"""A window's edge passes while nobody of those who should see to it is there (SPEC R2; DESIGN §9)."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from bare_workers import Mesh, mesh
from waiting import wait_for
from zones import path_with, zone_where

from gpu_mesh.domain.queues import CONTROL_QUEUE
from gpu_mesh.store import gates, journal, keys, server, windows

#: How far away an edge is, s: enough to see what holds before it.
AHEAD_S = 4
#: How late may be what happens at an edge, s: a tick, and a tender's successor.
LATE_S = 6.0
SHORT_LEASE_S = "1.2"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Two workers, no control worker and no beat; zones of the test's own."""
    with mesh(tmp_path_factory.mktemp("windows")) as found:
        found.workers("n1", "n2", GPU_MESH_LEASE_TTL_S=SHORT_LEASE_S, **path_with(found.folder))
        yield found


@pytest.fixture
def windowed(started: Mesh) -> Mesh:
    """Both are up, no queue is closed, and nothing is claimed."""
    started.revive()
    with started.server.client() as client:
        client.delete(keys.WINDOWS)
    await_gate(started, False)
    started.settled()
    return started


def plan(fleet: Mesh, edge: float, minutes: int) -> None:
    """Peak hours from 9 to 18, in a zone whose clocks show `minutes` at `edge`."""
    zone = zone_where(fleet.folder, f"Zone{minutes}", edge, minutes)
    with fleet.server.client() as client:
        windows.set_plan(client, windows.Plan("09:00-18:00", zone, "lead"))


def await_gate(fleet: Mesh, closed: bool) -> None:
    with fleet.server.client() as client:
        wait_for(lambda: bool(gates.all_gates(client)) == closed, f"the window's gate to be {closed}", LATE_S)


def test_a_window_closes_and_what_runs_goes_on(windowed: Mesh):
    """R2: at its edge; a job that has begun ends, the next one waits."""
    file = windowed.folder / "held"
    runs = windowed.hold(file, queue="ai-batch")
    windowed.started(runs)
    edge = time.time() // 1 + 2
    plan(windowed, edge, 9 * 60)
    await_gate(windowed, True)
    assert time.time() >= edge
    waits = windowed.send(queue="ai-batch")
    other = windowed.send(queue="internal")
    windowed.ended(other)
    assert not windowed.ledger.starts(waits)
    file.unlink()
    windowed.ended(runs)
    assert not windowed.ledger.starts(waits)


def test_a_pause_outlives_redis_and_its_end_comes_all_the_same(windowed: Mesh):
    """Issue 5 §1: pauses are in Redis's append-only file; an end that came while Redis was away counts."""
    with windowed.server.client() as client:
        gates.close(client, "customer", "manual", by="ann", why="disk full")
        gates.close(client, "internal", "manual", until=server.now(client) + 0.5)
        stays, ends = gates.all_gates(client)
    customer, internal = windowed.send(queue="customer"), windowed.send(queue="internal")
    windowed.server.kill()
    wait_for(lambda: time.time() > ends.until, "the end of the pause, while Redis is away", 5)
    windowed.server.start()
    windowed.ended(internal)
    with windowed.server.client() as client:
        assert gates.all_gates(client) == [stays]
        assert not windowed.ledger.starts(customer)
        gates.reopen(client, "customer", "manual")
    windowed.ended(customer)
    windowed.settled()


def test_the_control_worker_says_the_hours(windowed: Mesh):
    """R2: as it starts, with no beat to ask it; and its periodic work is not among the tasks that ended lately."""
    control = windowed.worker("lead", queues=(CONTROL_QUEUE,), device=False, GPU_MESH_PEAK_HOURS="00:00-24:00")
    windowed.all_workers.remove(control)
    try:
        control.start()
        await_gate(windowed, True)
        with windowed.server.client() as client:
            plan, _ = windows.read(client)
            assert plan is not None
            assert (plan.hours, plan.by) == ("00:00-24:00", "lead")
        windowed.app.send_task("mesh.windows", queue=CONTROL_QUEUE)
        after = windowed.send(queue=CONTROL_QUEUE)
        windowed.ended(after)
        windowed.settled()
        with windowed.server.client() as client:
            ended = journal.finished(client)
        assert ended[0]["id"] == after
        assert "mesh.windows" not in {entry["name"] for entry in ended}
    finally:
        control.close()


def test_a_window_opens_without_beat_and_control(windowed: Mesh):
    """R2, DESIGN §9: what waits runs when it opens, not before; also when the worker that tends dies before that."""
    edge = time.time() // 1 + AHEAD_S
    plan(windowed, edge, 18 * 60)
    await_gate(windowed, True)
    waits = windowed.send(queue="ai-batch")
    with windowed.server.client() as client:
        tender = str(client.get(f"{keys.PREFIX}tender"))
    next(worker for worker in windowed.all_workers if worker.name == tender).kill()
    windowed.ended(windowed.send(queue="internal"))

    def has_started() -> bool:
        starts = windowed.ledger.starts(waits)
        assert not starts or time.time() >= edge, "it ran in peak hours"
        return bool(starts)

    wait_for(has_started, "the work that waits, once the window is open", AHEAD_S + LATE_S)
    windowed.settled()
