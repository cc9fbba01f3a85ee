"""Redis dies, freezes, forgets its scripts, is full: workers stay up and nothing is lost (DESIGN §9)."""

from __future__ import annotations

import time

import pytest
import redis
from bare_workers import Mesh
from celery.states import SUCCESS
from waiting import wait_for

from gpu_mesh.errors import BrokerUnavailable

#: Redis back to the next task running (DESIGN §10), s.
BACK_S = 3.0


def _await_next(fleet: Mesh, since: float) -> float:
    """Seconds until a task sent now runs."""
    task = fleet.send(queue="revenue")
    fleet.started(task)
    return time.monotonic() - since


def test_redis_dies_and_comes_back(survivors: Mesh, record_property):
    """DESIGN §9: SIGKILL with an append-only file, while a job runs and others wait: each runs once."""
    gate = survivors.folder / "gate"
    held = survivors.hold(gate, queue="customer")
    survivors.started(held)
    waiting = [survivors.send(0.05, queue="internal") for _ in range(20)]

    survivors.server.kill()
    gate.unlink()
    wait_for(lambda: held in survivors.ledger.ends(), "the job's end, while Redis is away")
    survivors.server.start()
    took = _await_next(survivors, time.monotonic())

    record_property("redis_restart_s", round(took, 2))
    survivors.ended(held, *waiting)
    survivors.settled()
    assert took < BACK_S
    ends = survivors.ledger.ends()
    assert {task: ends[task] for task in (held, *waiting)} == dict.fromkeys((held, *waiting), 1)


def test_a_redis_that_loses_its_last_writes_runs_jobs_again(fleet: Mesh):
    """DESIGN §9: `appendfsync everysec` and a machine without power: a claim and an ack are forgotten.

    What was submitted before is run, twice where the end of its run was forgotten; nobody has to help.
    """
    workers = fleet.workers("n1", "n2", GPU_MESH_LEASE_TTL_S="1.2")
    gates = [fleet.folder / f"gate{number}" for number in range(3)]
    acked, held, claimed = (fleet.hold(gate, queue="customer") for gate in gates)
    for task in (acked, held):
        fleet.started(task)
    last = fleet.send(queue="internal")
    written = fleet.server.written()
    gates[0].unlink()
    fleet.started(claimed)
    lost = fleet.send(queue="internal")

    fleet.server.lose_power(written)
    fleet.server.start()
    with fleet.server.client() as client:
        assert (client.llen("customer:6"), client.llen("internal:6")) == (1, 1)
    for gate in gates[1:]:
        gate.unlink()

    wait_for(lambda: [fleet.ledger.ends()[task] for task in (acked, claimed)] == [2, 2], "both second runs")
    fleet.ended(held, last)
    fleet.settled()
    ends = fleet.ledger.ends()
    # What was submitted in that second is gone with it.
    assert [ends[task] for task in (acked, claimed, held, last, lost)] == [2, 2, 1, 1, 0]
    assert [worker.readies() for worker in workers] == [1, 1]


def _freeze(fleet: Mesh, seconds: float) -> float:
    """Redis answers nothing for so long, one worker busy, one idle. Seconds from its return to the next task."""
    gate = fleet.folder / "gate"
    held = fleet.hold(gate, queue="customer")
    fleet.started(held)
    with fleet.server.frozen():
        end = time.monotonic() + seconds
        wait_for(lambda: time.monotonic() > end, "the end of the freeze", seconds + 1)
    took = _await_next(fleet, time.monotonic())
    gate.unlink()
    fleet.ended(held)
    fleet.settled()
    # A reap of the fleet would have run it again.
    assert len(fleet.ledger.starts(held)) == 1
    return took


def test_a_freeze_longer_than_the_lease_reaps_nobody(survivors: Mesh, record_property):
    """DESIGN §6: Redis frozen for more than two leases, then back: jobs go on, run once."""
    took = _freeze(survivors, 3.0)
    record_property("redis_freeze_s", round(took, 2))
    assert took < BACK_S


@pytest.mark.soak
def test_a_freeze_of_12_s_reaps_nobody(fleet: Mesh, record_property):
    """DESIGN §9: the same with the lease's default of 10 s."""
    workers = fleet.workers("n1", "n2")
    took = _freeze(fleet, 12.0)
    record_property("redis_freeze_12_s", round(took, 2))
    assert took < BACK_S
    assert [worker.readies() for worker in workers] == [1, 1]


def test_script_flush_under_load(survivors: Mesh):
    """DESIGN §5: scripts are loaded again, whoever misses them: each task runs once."""
    tasks = []
    with survivors.server.client() as client:
        for _ in range(5):
            tasks += [survivors.send(0.01, queue="internal") for _ in range(8)]
            client.script_flush()
    survivors.ended(*tasks)
    survivors.settled()
    ends = survivors.ledger.ends()
    assert {task: ends[task] for task in tasks} == dict.fromkeys(tasks, 1)


def test_a_full_redis_refuses_submits_and_lets_work_finish(survivors: Mesh):
    """DESIGN §9: at its memory limit: a submit is refused by name, what waits is run and acked, no result is lost."""
    gate = survivors.folder / "full"
    held = survivors.hold(gate, queue="customer")
    worker = survivors.started(held)
    waiting = [survivors.send(0.1, queue="internal") for _ in range(20)]
    with survivors.server.client() as client:
        client.config_set("maxmemory", 1)
        try:
            assert client.llen("internal:6") > 0
            with pytest.raises(BrokerUnavailable, match="full"):
                survivors.send(queue="internal")
            with pytest.raises(redis.exceptions.OutOfMemoryError):
                client.set("anything", 1)
            gate.unlink()
            survivors.ended(held, *waiting)
            result = survivors.app.AsyncResult(held)
            assert not result.ready()
        finally:
            client.config_set("maxmemory", 0)
    wait_for(result.ready, "the result, once there is room")
    assert result.state == SUCCESS
    assert result.result == worker
    survivors.settled()
    ends = survivors.ledger.ends()
    assert {task: ends[task] for task in (held, *waiting)} == dict.fromkeys((held, *waiting), 1)
