"""What jobs leave behind is gone before the next one: processes, detached ones too, and memory (SPEC P7)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from bare_workers import BareWorker, Mesh, mesh
from celery.exceptions import TaskRevokedError, TimeLimitExceeded
from mesh_scripts import alive, pids_in, write_scripts
from processes import gpu_mesh
from waiting import wait_for

from gpu_mesh.errors import TaskExited

#: How soon nothing may be left, s.
SOON_S = 3.0


@pytest.fixture(scope="module")
def fleet_of_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    folder = tmp_path_factory.mktemp("leftovers")
    with mesh(folder) as found:
        found.workers("n1", GPU_MESH_INCLUDE="leaving_tasks", GPU_MESH_SCRIPTS_DIR=str(write_scripts(folder)))
        yield found


@pytest.fixture
def worker(fleet_of_one: Mesh) -> Iterator[BareWorker]:
    """The worker; at the end of the test it has one child, without descendants and alive, and nothing else."""
    [worker] = fleet_of_one.all_workers
    yield worker
    assert "not all cleaned up" not in worker.log.read_text()
    wait_for(lambda: fleet_of_one.claims() == [], "the end of all jobs")
    wait_for(lambda: len(psutil.Process(worker.pid).children(recursive=True)) == 1, "one child, and no more", SOON_S)


def run(fleet: Mesh, name: str, *args: object, **options: object):
    return fleet.app.send_task(f"leaving_tasks.{name}", args, queue="customer", **options)


def left(path: Path) -> list[int]:
    """The pool child, and the three processes its job started."""
    return wait_for(lambda: pids_in(path), "its processes")


@pytest.mark.parametrize("how", ["return", "raise"])
def test_a_job_that_ends(fleet_of_one: Mesh, worker: BareWorker, tmp_path: Path, how: str) -> None:
    """P7: also one that failed; the pool child lives on, and serves the next job once they are gone."""
    sent = run(fleet_of_one, "leave", str(tmp_path / "pids"), how)
    assert sent.get(timeout=20, propagate=False) is None or how == "raise"
    child, *spawned = left(tmp_path / "pids")
    assert len(spawned) == 3
    run(fleet_of_one, "resident").get(timeout=20)
    assert not alive(spawned)
    assert worker.children() == [child]
    said = [line for line in worker.log.read_text().splitlines() if sent.id in line and "left processes behind" in line]
    assert len(said) == 1
    assert all(f"({pid})" in said[0] for pid in spawned)


@pytest.mark.parametrize("how", ["cancel", "limit", "kill"])
def test_a_job_whose_child_is_killed(fleet_of_one: Mesh, worker: BareWorker, tmp_path: Path, how: str) -> None:
    """P7: cancelled, at its time limit, or killed by whoever: its worker ends what the child has left."""
    path = tmp_path / "pids"
    limits = {"time_limit": 2} if how == "limit" else {}
    sent = run(fleet_of_one, "leave", str(path), "hold", **limits)
    child, *spawned = left(path)
    assert len(alive([child, *spawned])) == 4
    if how == "cancel":
        # SIGKILL, so that the child has no chance to clean up.
        fleet_of_one.app.control.revoke(sent.id, terminate=True, signal="SIGKILL")
        with pytest.raises(TaskRevokedError):
            sent.get(timeout=20)
    elif how == "limit":
        with pytest.raises(TimeLimitExceeded):
            sent.get(timeout=20)
    else:
        path.unlink()
        os.kill(child, signal.SIGKILL)
        # Its message goes back: another run begins, and is taken back.
        assert left(path)[0] != child
        fleet_of_one.app.control.revoke(sent.id, terminate=True)
    wait_for(lambda: not alive([child, *spawned]), "the end of its processes", SOON_S)
    assert worker.alive()
    assert worker.readies() == 1


def test_a_cancelled_job(fleet_of_one: Mesh, worker: BareWorker, tmp_path: Path) -> None:
    """P7: by SIGTERM, as `gpu-mesh cancel` does: the child ends them itself."""
    sent = run(fleet_of_one, "leave", str(tmp_path / "pids"), "hold")
    pids = left(tmp_path / "pids")
    fleet_of_one.app.control.revoke(sent.id, terminate=True)
    wait_for(lambda: not alive(pids), "the end of its processes", SOON_S)


def test_memory_is_back(fleet_of_one: Mesh, worker: BareWorker) -> None:
    """P7: what hangs in a reference cycle too, although Python's own collector has not run yet."""
    before = run(fleet_of_one, "leave_memory", 300).get(timeout=20)
    after, frozen = run(fleet_of_one, "resident").get(timeout=20)
    assert after < before + 100
    # What the child inherited is looked at by no collection.
    assert frozen > 10_000


def test_the_process_is_as_it_was(fleet_of_one: Mesh, worker: BareWorker) -> None:
    """P7: folder, umask, environment, signals, timers and limits, also after a job that failed; the log names them."""
    before = run(fleet_of_one, "process").get(timeout=20)
    changing = run(fleet_of_one, "change_process")
    with pytest.raises(ValueError, match="as it was told"):
        changing.get(timeout=20)
    assert run(fleet_of_one, "process").get(timeout=20) == before
    [said] = [line for line in worker.log.read_text().splitlines() if changing.id in line and "put back" in line]
    assert "a timer, blocked signals" in said
    assert "$GPU_MESH_INCLUDE, $LEFT_BEHIND" in said


def test_a_job_that_wants_too_much_memory(fleet_of_one: Mesh, worker: BareWorker) -> None:
    """DESIGN §9: its MemoryError is its result, once; its worker, which Celery would end for it, goes on."""
    [child] = worker.children()
    with pytest.raises(MemoryError):
        run(fleet_of_one, "want_memory").get(timeout=20)
    run(fleet_of_one, "resident").get(timeout=20)
    assert worker.alive()
    assert worker.readies() == 1
    assert worker.children() == [child]


def test_a_job_that_exits(fleet_of_one: Mesh, worker: BareWorker) -> None:
    """DESIGN §9: `sys.exit()` is the job's failure, not its worker's death, which would run it again and again."""
    [child] = worker.children()
    with pytest.raises(TaskExited, match=r"sys\.exit\(2\)"):
        run(fleet_of_one, "leave_by_exit", 2).get(timeout=20)
    run(fleet_of_one, "resident").get(timeout=20)
    assert worker.children() == [child]


def test_threads_are_named_once(fleet_of_one: Mesh, worker: BareWorker, tmp_path: Path) -> None:
    """P7: nobody can end them."""
    gate = tmp_path / "gate"
    for _ in range(2):
        run(fleet_of_one, "leave_thread", str(gate)).get(timeout=20)
    run(fleet_of_one, "resident").get(timeout=20)
    said = [line for line in worker.log.read_text().splitlines() if "left threads running" in line]
    gate.unlink()
    assert len(said) == 2
    assert all(line.endswith(": left-behind") for line in said)


def test_what_serves_all_jobs_stays(fleet_of_one: Mesh, worker: BareWorker) -> None:
    """P7: Python's resource tracker and fork server; not what the fork server has forked for a job."""
    try:
        first, second = (run(fleet_of_one, "keep_helpers").get(timeout=20) for _ in range(2))
        run(fleet_of_one, "resident").get(timeout=20)
        assert not alive([first[2], second[2]])
        assert first[:2] == second[:2]
        assert sorted(alive(first)) == sorted(first[:2])
    finally:
        os.kill(worker.children()[0], signal.SIGKILL)


def test_a_script_is_left_to_its_guard(fleet_of_one: Mesh, worker: BareWorker, tmp_path: Path) -> None:
    """T, P7: the child is killed; the guard, however slow, ends the script's tree and deletes its folder."""
    path = tmp_path / "pids"
    sent = fleet_of_one.app.send_task("training", ["tree.py", {"pids": str(path)}], queue="customer")
    pids = left(path)
    guard, [child] = psutil.Process(pids[0]).ppid(), worker.children()
    os.kill(guard, signal.SIGSTOP)
    try:
        fleet_of_one.app.control.revoke(sent.id, terminate=True, signal="SIGKILL")
        wait_for(lambda: not alive([child]), "the end of the child")
        # The script still computes: the device is not free. Several looks for orphans later this is said.
        waits = run(fleet_of_one, "resident")
        said = f"claims wait: its device is in use by what process {child} left behind"
        wait_for(lambda: said in worker.log.read_text(), "the worker to wait")
        assert alive([guard]) == [guard]
        assert not waits.ready()
    finally:
        os.kill(guard, signal.SIGCONT)
    wait_for(lambda: not alive([*pids, guard]), "the end of its processes", SOON_S)
    waits.get(timeout=20)
    assert list((fleet_of_one.folder / "runs").iterdir()) == []


def test_a_worker_that_stops(fleet_of_one: Mesh, tmp_path: Path) -> None:
    """P7, F2: a stop that kills its job leaves nothing of it."""
    other = fleet_of_one.worker("n2", GPU_MESH_INCLUDE="leaving_tasks", GPU_MESH_STOP_TIMEOUT_S="0.2").start()
    try:
        path = tmp_path / "pids"
        sent = run(fleet_of_one, "leave", str(path), "hold", device="gpu0@n2")
        pids = left(path)
        other.send(signal.SIGTERM)
        wait_for(lambda: not other.alive(), "the worker's end")
        wait_for(lambda: not alive(pids), "the end of its processes", SOON_S)
        fleet_of_one.app.control.revoke(sent.id)
    finally:
        other.close()
        fleet_of_one.all_workers.remove(other)


def test_a_worker_that_is_killed(fleet_of_one: Mesh, tmp_path: Path) -> None:
    """P7, F1: its supervisor ends also what the job has detached, before another worker goes on for long."""
    env = fleet_of_one.env(GPU_MESH_INCLUDE="leaving_tasks", NODE_NAME="n3", GPU_MESH_DEVICES="fake:A40:40")
    log, path = tmp_path / "worker.log", tmp_path / "pids"
    with gpu_mesh("worker", log=log, ready="gpu0@n3 ready.", env=env) as supervisor:
        sent = run(fleet_of_one, "leave", str(path), "hold", device="gpu0@n3")
        pids = left(path)
        worker = psutil.Process(pids[0]).ppid()
        assert psutil.Process(worker).ppid() == supervisor.pid
        fleet_of_one.app.control.revoke(sent.id)
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: not alive(pids), "the end of its processes", SOON_S)
        assert supervisor.poll() is None


def test_a_cancelled_job_that_is_deaf(fleet_of_one: Mesh, tmp_path: Path) -> None:
    """P7, DESIGN §6: its device takes no other job while it runs, and it does not run for long."""
    other = fleet_of_one.worker("n4", GPU_MESH_INCLUDE="leaving_tasks", GPU_MESH_SCRIPT_GRACE_S="0.5").start()
    try:
        sent = run(fleet_of_one, "deaf", str(tmp_path / "pids"), device="gpu0@n4")
        pids = left(tmp_path / "pids")
        fleet_of_one.app.control.revoke(sent.id, terminate=True)
        with pytest.raises(TaskRevokedError):
            sent.get(timeout=20)
        assert alive(pids)
        assert len(fleet_of_one.claims()) == 1
        run(fleet_of_one, "resident", device="gpu0@n4").get(timeout=20)
        assert not alive(pids)
        assert sent.state == "REVOKED"
        assert other.readies() == 1
        wait_for(lambda: fleet_of_one.claims() == [], "the end of its claim")
    finally:
        other.close()
