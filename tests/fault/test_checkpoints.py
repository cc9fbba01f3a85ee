"""State that outlives its run: kills, preemption and stops, with real processes (SPEC F2, DESIGN §6, §7, §9)."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from bare_workers import BareWorker, Mesh, mesh
from celery.result import AsyncResult
from waiting import wait_for

from gpu_mesh.store import keys

EXAMPLES = Path(__file__).parents[2] / "examples"
#: Short, so that a dead machine's job runs elsewhere soon, s.
LEASE_S = 2.0
STOP_S = 1.0
#: For a busy test machine, s.
MARGIN_S = 4.0
ENV = {
    "GPU_MESH_INCLUDE": "ledger_tasks,resuming_tasks,file_count.tasks",
    "GPU_MESH_LEASE_TTL_S": f"{LEASE_S:g}",
    "GPU_MESH_STOP_TIMEOUT_S": f"{STOP_S:g}",
}


def _start(fleet: Mesh, *nodes: str) -> list[BareWorker]:
    path = os.pathsep.join([os.environ["PYTHONPATH"], str(EXAMPLES)])
    return fleet.workers(*nodes, PYTHONPATH=path, **ENV)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh with two workers; a test that ends one starts it again."""
    with mesh(tmp_path_factory.mktemp("two")) as found:
        _start(found, "n1", "n2")
        yield found


@pytest.fixture
def living(two: Mesh) -> Mesh:
    """The mesh with both workers up, whatever the test before did, and nothing in it."""
    two.revive()
    two.settled()
    return two


def _send(fleet: Mesh, gate: Path, total: int = 30) -> AsyncResult:
    gate.touch()
    return fleet.app.send_task("resuming.steps", [str(fleet.ledger.path), str(gate), total], queue="customer")


def _saved(fleet: Mesh, task: str) -> str | None:
    with fleet.server.client() as client:
        return client.get(keys.checkpoint(task))


def _at_last_step(fleet: Mesh, task: str) -> None:
    wait_for(lambda: '"step":29' in (_saved(fleet, task) or ""), "the last step")


def _deliveries(fleet: Mesh) -> int:
    """Of the one message that is claimed: how often it was handed out, as counted."""
    with fleet.server.client() as client:
        [key] = fleet.claims()
        [held] = [value for field, value in client.hgetall(key).items() if field[0] not in "=+"]
    return int(held.split("\t")[3])


def _worker(fleet: Mesh, name: str) -> BareWorker:
    return next(worker for worker in fleet.all_workers if worker.name == name)


def _folder(tmp_path: Path, count: int) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for i in range(count):
        (folder / f"{i:03}.txt").write_text("word " * (i + 1))
    return folder


def _counted(fleet: Mesh, task: str, step: int) -> None:
    def done() -> int:
        found = re.search(r'"done":(\d+)', _saved(fleet, task) or "")
        return int(found[1]) if found else 0

    wait_for(lambda: done() >= step, f"file {step}")


def _count(fleet: Mesh, folder: Path) -> AsyncResult:
    return fleet.app.send_task("file_count.tasks.count_words", [str(folder), 0.03], queue="customer")


def _running(fleet: Mesh, task: str) -> tuple[str, int]:
    """Worker and child of a task, as its result's STARTED says."""
    info = wait_for(lambda: fleet.app.AsyncResult(task).info, "a start")
    return info["hostname"], info["pid"]


def test_the_example_goes_on_after_its_child_was_killed(living: Mesh, tmp_path: Path):
    """F2: SIGKILL in the middle: each file is counted, none again, and the checkpoint is gone at the end."""
    result = _count(living, _folder(tmp_path, 40))
    _counted(living, result.id, 10)
    _, child = _running(living, result.id)
    os.kill(child, signal.SIGKILL)

    found = result.get(timeout=20)

    assert (found["files"], found["words"]) == (40, sum(range(1, 41)))
    first, second = found["began_at"]
    assert first == 0
    assert second >= 10
    wait_for(lambda: _saved(living, result.id) is None, "the end of the checkpoint")


def test_the_example_goes_on_at_another_worker(living: Mesh, tmp_path: Path):
    """F2, F1: the machine dies; another one goes on from the checkpoint."""
    result = _count(living, _folder(tmp_path, 40))
    _counted(living, result.id, 10)
    name, _ = _running(living, result.id)
    _worker(living, name).kill()

    found = result.get(timeout=20)

    assert (found["files"], found["words"]) == (40, sum(range(1, 41)))
    assert found["began_at"][1] >= 10
    assert living.app.AsyncResult(result.id).state == "SUCCESS"


@contextmanager
def _events(fleet: Mesh) -> Iterator[list[dict]]:
    """What a monitor such as Flower hears, from the first event on."""
    heard: list[dict] = []
    with fleet.app.connection() as connection:
        receiver = fleet.app.events.Receiver(connection, handlers={"*": heard.append})
        thread = threading.Thread(target=receiver.capture, kwargs={"limit": None, "timeout": None, "wakeup": False})
        thread.start()
        try:
            wait_for(lambda: heard, "a worker's heartbeat")
            yield heard
        finally:
            receiver.should_stop = True
            thread.join(10)


def test_a_run_that_is_asked_yields_and_goes_on(living: Mesh, tmp_path: Path):
    """DESIGN §7: to the front, from its checkpoint, past `except Exception`; no delivery is counted, however often."""
    gate = tmp_path / "gate"
    with _events(living) as heard:
        result = _send(living, gate)
        for turn in range(1, 3):
            living.started(result.id, turn)
            _at_last_step(living, result.id)
            # A worker is ready a moment before it hears what is broadcast.
            wait_for(lambda: len(living.app.control.broadcast("ping", reply=True, limit=2, timeout=1)) == 2, "answers")
            reply = living.app.control.broadcast(
                "yield_now", arguments={"reason": "interactive work waits"}, reply=True, limit=2, timeout=5
            )
            assert sum(len(next(iter(answer.values()))["asked"]) for answer in reply) == 1
            living.started(result.id, turn + 1)
        assert _deliveries(living) == 1
        gate.unlink()
        assert result.get(timeout=20) == [0, 29, 29]
        wait_for(lambda: any(event["type"] == "task-succeeded" for event in heard), "the last event")
    told = [event["type"].removeprefix("task-") for event in heard if event.get("uuid") == result.id]
    assert told == ["sent", *["received", "started", "retried"] * 2, "received", "started", "succeeded"]
    assert not any("HandBack" in worker.log.read_text() for worker in living.all_workers)
    assert "interactive work waits" in next(event["exception"] for event in heard if event["type"] == "task-retried")
    assert living.dead() == []


def test_a_stop_asks_the_job_to_yield(living: Mesh, tmp_path: Path):
    """DESIGN §6: SIGTERM: the job saves, another one goes on; the worker ends; no delivery is counted."""
    gate = tmp_path / "gate"
    with _events(living) as heard:
        result = _send(living, gate)
        stopped = _worker(living, living.started(result.id))
        _at_last_step(living, result.id)
        before = len(stopped.log.read_text())
        stopped.send(signal.SIGTERM)
        other = living.started(result.id, 2)
        assert other != stopped.name
        wait_for(lambda: not stopped.alive(), "the end of the worker")
        wait_for(lambda: any(event["type"] == "task-retried" for event in heard), "the monitor's notice")
    assert "is interrupted" not in stopped.log.read_text()[before:]
    assert stopped.process is not None
    assert stopped.process.returncode == 0
    assert living.claims() == [keys.claims(other)]
    assert _deliveries(living) == 1
    gate.unlink()
    assert result.get(timeout=20) == [0, 29]


def test_a_stop_past_its_limit_interrupts_the_job(living: Mesh, tmp_path: Path):
    """DESIGN §6: a job that does not yield is killed after the limit and handed back, counted as no delivery."""
    gate = tmp_path / "gate"
    task = living.hold(gate, queue="customer")
    stopped = _worker(living, living.started(task))
    child = living.ledger.starts(task)[0].pid
    began = time.monotonic()
    stopped.send(signal.SIGTERM)
    wait_for(lambda: "Warm shutdown" in stopped.log.read_text(), "a warm stop")
    stopped.send(signal.SIGTERM)  # as in Celery, a second one changes nothing
    other = living.started(task, 2)
    took = time.monotonic() - began
    assert other != stopped.name
    assert STOP_S <= took < STOP_S + MARGIN_S
    assert not psutil.pid_exists(child)
    assert _deliveries(living) == 1
    wait_for(lambda: not stopped.alive(), "the end of the worker")
    gate.unlink()
    living.ended(task)
    living.settled()
    assert living.ledger.ends()[task] == 1


def test_a_cold_stop_hands_back_at_once(living: Mesh, tmp_path: Path):
    """DESIGN §6: SIGQUIT: the job is killed without a wait and runs elsewhere, counted as no delivery."""
    gate = tmp_path / "gate"
    task = living.hold(gate, queue="customer")
    stopped = _worker(living, living.started(task))
    began = time.monotonic()
    stopped.send(signal.SIGQUIT)
    assert living.started(task, 2) != stopped.name
    assert time.monotonic() - began < LEASE_S + MARGIN_S
    assert _deliveries(living) == 1
    wait_for(lambda: not stopped.alive(), "the end of the worker")
    gate.unlink()
    living.ended(task)
    assert living.ledger.ends()[task] == 1


def test_a_retry_and_a_second_try_go_on(living: Mesh):
    """F2: a retry has the state; so has a task that failed and is sent again under its id. Success forgets it."""
    name, options = "resuming.second_time", {"queue": "customer"}
    assert living.app.send_task(name, [True], **options).get(timeout=20) == {"reached": 7}

    failed = living.app.send_task(name, [False], **options)
    with pytest.raises(ValueError, match="broken"):
        failed.get(timeout=20)
    living.settled()
    assert _saved(living, failed.id) == '{"reached":7}'
    living.app.send_task(name, [False], task_id=failed.id, **options)
    wait_for(lambda: _saved(living, failed.id) is None, "the end of the checkpoint")
    with living.server.client() as client:
        # Not through the result, which remembers the first answer.
        assert '"result": {"reached": 7}' in client.get(f"celery-task-meta-{failed.id}")


def test_a_redis_that_is_away_costs_a_checkpoint_not_the_job(living: Mesh, tmp_path: Path):
    """F2: it is logged, the run goes on, and once."""
    gate = tmp_path / "gate"
    result = _send(living, gate)
    worker = _worker(living, living.started(result.id))
    _at_last_step(living, result.id)
    living.server.kill()
    wait_for(lambda: "checkpoint not saved, going on" in worker.log.read_text(), "the notice")
    living.server.start()
    gate.unlink()
    assert result.get(timeout=20) == [0]
    living.settled()


def test_a_run_ends_without_asking_redis(living: Mesh):
    """DESIGN §6: while the lease holds, nobody asks whether the claim does."""
    with living.server.client() as client:
        client.config_resetstat()
        # No realtime jobs: where those hold batch work back, claims ask whether theirs are there.
        living.ended(*(living.send(queue="internal") for _ in range(20)))
        living.settled()
        stats = client.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] > 40
    assert "cmdstat_hexists" not in stats
