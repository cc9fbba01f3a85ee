"""Workers and their children die of SIGKILL (SPEC S3, F1; DESIGN §9): their jobs run elsewhere, nothing is lost."""

from __future__ import annotations

import os
import signal
import time

import psutil
from bare_workers import Mesh
from cutting_proxy import cutting_proxy
from processes import gpu_mesh
from waiting import wait_for

from gpu_mesh.store import keys

#: A machine's job runs elsewhere within its lease and one renewal of another worker, s.
LEASE_S = 1.2
#: For a busy test machine, s.
MARGIN_S = 3.0


def _rerun(fleet: Mesh, task: str, since: float, timeout_s: float) -> float:
    fleet.started(task, 2, timeout_s)
    return time.monotonic() - since


def test_the_job_of_a_dead_machine_runs_on_another(living: Mesh, record_property):
    """F1: a worker without a supervisor dies mid-job; its lease ends, another worker runs the job, once."""
    fleet, (one, two) = living, living.all_workers
    task = fleet.hold(fleet.folder / "gate", queue="customer")
    first = fleet.started(task)
    victim, other = (one, two) if first == one.name else (two, one)
    killed = time.monotonic()
    victim.kill()

    took = _rerun(fleet, task, killed, LEASE_S * 1.2 + MARGIN_S)

    record_property("failover_machine_s", round(took, 2))
    assert fleet.ledger.starts(task)[1].worker == other.name
    (fleet.folder / "gate").unlink()
    fleet.ended(task)
    fleet.settled()
    assert fleet.ledger.ends()[task] == 1


def test_a_death_between_claim_and_run_loses_nothing(fleet: Mesh):
    """DESIGN §9: Redis has given the job away, and the worker dies before it hears so: another one runs it."""
    short = {"GPU_MESH_LEASE_TTL_S": f"{LEASE_S:g}"}
    with cutting_proxy(fleet.server.port) as proxy:
        victim = fleet.worker("n1", url=proxy.url, **short).start()

        def kill(asked: bytes, answer: bytes) -> bool:
            if b"\r\n$5\r\nclaim\r\n" not in answer[:64]:
                return False
            victim.kill()
            return True

        proxy.cut(kill)
        task = fleet.send(queue="customer")
        wait_for(lambda: proxy.cuts, "the claim")
        assert fleet.claims() == [keys.claims(victim.name)]
        assert fleet.ledger.lines() == []
        [other] = fleet.workers("n2", **short)
        fleet.ended(task)
        fleet.settled()
    assert [run.worker for run in fleet.ledger.starts(task)] == [other.name]


def test_the_job_of_a_dead_child_runs_again(living: Mesh, record_property):
    """F1: only the pool child dies; its parent gives the job back and stays."""
    fleet, before = living, [(worker.pid, worker.readies()) for worker in living.all_workers]
    task = fleet.hold(fleet.folder / "gate", queue="customer")
    fleet.started(task)
    killed = time.monotonic()
    os.kill(fleet.ledger.starts(task)[0].pid, signal.SIGKILL)

    took = _rerun(fleet, task, killed, 2.0 + MARGIN_S)

    record_property("failover_child_s", round(took, 2))
    (fleet.folder / "gate").unlink()
    fleet.ended(task)
    fleet.settled()
    assert [(worker.pid, worker.readies()) for worker in fleet.all_workers if worker.alive()] == before
    assert fleet.ledger.ends()[task] == 1


def test_the_job_of_a_supervised_worker_runs_again(fleet: Mesh, record_property):
    """F1: a supervisor sees its worker die; the lease (10 s) is not waited for."""
    log = fleet.folder / "node.log"
    devices = "fake:RTX 4090:24,fake:A40:40"
    with gpu_mesh(
        "worker", "--devices", devices, log=log, ready="gpu1@pair ready", env=fleet.env(NODE_NAME="pair")
    ) as process:
        wait_for(lambda: "gpu0@pair ready" in log.read_text(), "both workers")
        task = fleet.hold(fleet.folder / "gate", queue="customer")
        fleet.started(task)
        parent = psutil.Process(fleet.ledger.starts(task)[0].pid).ppid()
        killed = time.monotonic()
        os.kill(parent, signal.SIGKILL)

        took = _rerun(fleet, task, killed, 9.0)

        record_property("failover_supervised_s", round(took, 2))
        (fleet.folder / "gate").unlink()
        fleet.ended(task)
        fleet.settled()
        assert fleet.ledger.ends() == {task: 1}
        process.send_signal(signal.SIGTERM)
        process.wait(30)
