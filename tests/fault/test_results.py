"""What a job says of itself while Redis is away: its result waits, its progress does not (DESIGN §9, SPEC S3)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bare_workers import Mesh, mesh
from celery.states import SUCCESS
from processes import gpu_mesh
from waiting import wait_for


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """One bare worker that knows the telling tasks too."""
    with mesh(tmp_path_factory.mktemp("alone")) as found:
        found.workers("n1", GPU_MESH_INCLUDE="ledger_tasks,telling_tasks")
        yield found


def _await_result(fleet: Mesh, task: str) -> object:
    """What a task returned, however it was said."""
    result = fleet.app.AsyncResult(task)
    wait_for(result.ready, "the result")
    assert result.state == SUCCESS, result.traceback
    return result.result


def test_a_job_that_ends_while_redis_is_away_succeeds(alone: Mesh):
    """It waits with its result for Redis, however long that takes."""
    gate = alone.folder / "held"
    held = alone.hold(gate, queue="customer")
    worker = alone.started(held)

    alone.server.kill()
    gate.unlink()
    wait_for(lambda: held in alone.ledger.ends(), "the job's end, while Redis is away")
    wait_for(lambda: "its SUCCESS waits for Redis" in alone.all_workers[0].log.read_text(), "a word on it in the log")
    alone.server.start()

    assert _await_result(alone, held) == worker
    alone.settled()
    assert alone.ledger.ends()[held] == 1


def test_a_job_tells_progress_into_the_void(alone: Mesh):
    """Progress that Redis does not hear fails no job, and does not hold it up: it goes on while Redis is away."""
    gate, told = alone.folder / "telling", alone.folder / "told"
    gate.touch()
    task = alone.app.send_task("telling.tell", [str(gate), str(told)], queue="customer").id
    _await_count(told, 1)

    alone.server.kill()
    _await_count(told, _count(told) + 10)
    alone.server.start()
    wait_for(lambda: alone.app.AsyncResult(task).state in ("PROGRESS", "WORKING"), "progress heard again")
    gate.unlink()

    assert _await_result(alone, task) == _count(told)
    alone.settled()


def test_who_waits_waits_through_a_restart(alone: Mesh):
    """`gpu-mesh wait` goes on while Redis is away, and prints the result."""
    gate, log = alone.folder / "waited", alone.folder / "wait.log"
    held = alone.hold(gate, queue="customer")
    worker = alone.started(held)

    before = _asking(alone)
    with gpu_mesh("wait", held, log=log, env=alone.env()) as waiting:
        wait_for(lambda: _asking(alone) - before, "its first look at the state")
        alone.server.kill()
        gate.unlink()
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1.0)
        alone.server.start()
        assert waiting.wait(20) == 0, log.read_text()

    assert json.loads(log.read_text()) == worker


def _asking(fleet: Mesh) -> set[str]:
    """Ids of the connections that asked for a value last."""
    with fleet.server.client() as client:
        return {each["id"] for each in client.client_list() if each["cmd"] == "get"}


def _count(told: Path) -> int:
    text = told.read_text() if told.exists() else ""
    return int(text or 0)


def _await_count(told: Path, count: int) -> None:
    wait_for(lambda: _count(told) >= count, f"{count} tellings")
