"""A training script whose worker is killed or stopped: no process stays, and another run goes on (SPEC T, F2, P7)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bare_workers import BareWorker, Mesh, mesh
from celery.result import AsyncResult
from mesh_scripts import alive, pids_in, write_scripts
from waiting import wait_for

from gpu_mesh.store import keys

LEASE_S = 2.0
STOP_S = 20.0
STEPS = 20
EXAMPLE = Path(__file__).parents[2] / "examples" / "training" / "scripts" / "spirals.py"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Two workers, which share the folder of checkpoints; a test that ends one starts it again."""
    folder = tmp_path_factory.mktemp("two")
    scripts = write_scripts(folder)
    shutil.copy(EXAMPLE, scripts)
    with mesh(folder) as found:
        found.workers(
            "n1",
            "n2",
            GPU_MESH_SCRIPTS_DIR=str(scripts),
            GPU_MESH_CHECKPOINT_DIR=str(folder / "shared"),
            GPU_MESH_LEASE_TTL_S=f"{LEASE_S:g}",
            GPU_MESH_STOP_TIMEOUT_S=f"{STOP_S:g}",
            GPU_MESH_SCRIPT_GRACE_S="1",
        )
        yield found


@pytest.fixture
def living(two: Mesh) -> Mesh:
    """The mesh with both workers up, and nothing in it."""
    two.revive()
    two.settled()
    return two


class Training:
    """A run of `steps.py` that holds before its last step while its gate is there."""

    def __init__(self, fleet: Mesh, folder: Path) -> None:
        self.fleet, self.folder, self.gate = fleet, folder, folder / "gate"
        self.gate.touch()
        arguments = {"pids": str(folder / "pids"), "gate": str(self.gate), "total": STEPS}
        sent = fleet.app.send_task("training", ["steps.py", arguments], requirements={"epochs": 4}, queue="customer")
        self.sent: AsyncResult = sent

    def saved(self) -> str:
        with self.fleet.server.client() as client:
            return client.get(keys.checkpoint(self.sent.id)) or ""

    def waits(self) -> list[int]:
        """Its processes, once the first run holds."""
        wait_for(lambda: f'"step":{STEPS - 1}' in self.saved(), "the last step but one")
        return self.pids(1)

    def pids(self, run: int) -> list[int]:
        found = wait_for(lambda: pids_in(self.folder / f"pids.{run}"), f"run {run}")
        assert len(found) == 4
        return found

    def worker(self) -> BareWorker:
        name = self.sent.info["hostname"]
        return next(worker for worker in self.fleet.all_workers if worker.name == name)

    def result(self) -> dict[str, Any]:
        self.gate.unlink()
        found = self.sent.get(timeout=20)
        assert found["epochs"] == 4
        return found


def _check_resumed(training: Training) -> None:
    """The second run found state and files of the first, and nothing of either is left."""
    second = training.pids(2)
    found = training.result()
    assert found["began"] == [0, STEPS - 1]
    assert f"{STEPS - 1:03}.bin" in found["found"]
    wait_for(lambda: not alive(second), "the end of its processes")
    wait_for(lambda: not (training.fleet.folder / "shared" / training.sent.id).exists(), "the end of its files")
    assert training.saved() == ""
    assert list((training.fleet.folder / "runs").iterdir()) == []


@pytest.mark.parametrize("whom", ["child", "machine"])
def test_killed(living: Mesh, tmp_path: Path, whom: str):
    """F2, P7: SIGKILL of the pool's child, or of a whole worker: its script's tree dies, a later run goes on."""
    training = Training(living, tmp_path)
    first = training.waits()
    worker = training.worker()
    if whom == "child":
        os.kill(training.sent.info["pid"], signal.SIGKILL)
    else:
        worker.kill()
    wait_for(lambda: not alive(first), "the end of its processes", LEASE_S)
    _check_resumed(training)


def test_a_warm_stop(living: Mesh, tmp_path: Path):
    """F2: SIGTERM to the worker: the script is asked, saves and ends; the next worker goes on, no delivery counted."""
    training = Training(living, tmp_path)
    first = training.waits()
    worker = training.worker()
    worker.send(signal.SIGTERM)
    wait_for(lambda: not worker.alive(), "the worker's end", STOP_S / 2)
    assert alive(first) == []
    log = worker.log.read_text()
    assert "steps.py is asked to save and stop" in log
    assert "yields: the worker stops" in log
    _check_resumed(training)


def test_a_warm_stop_of_one_deaf_to_it(living: Mesh, tmp_path: Path):
    """T: it is killed after the grace, and handed back."""
    pids = tmp_path / "pids"
    arguments = {"pids": str(pids), "deaf": True}
    sent = living.app.send_task("training", ["tree.py", arguments], queue="customer")
    first = wait_for(lambda: pids_in(pids), "its processes")
    name = wait_for(lambda: sent.info, "its start")["hostname"]
    worker = next(worker for worker in living.all_workers if worker.name == name)
    pids.unlink()
    worker.send(signal.SIGTERM)
    wait_for(lambda: not worker.alive(), "the worker's end", STOP_S / 2)
    assert alive(first) == []
    second = wait_for(lambda: pids_in(pids), "the next run")
    living.app.control.revoke(sent.id, terminate=True)
    wait_for(lambda: not alive(second), "the end of the next run")


def test_a_custom_script_that_saves_nothing_is_not_asked(living: Mesh, tmp_path: Path):
    """DESIGN §6: at a warm stop it may end its work."""
    gate = tmp_path / "gate"
    gate.touch()
    sent = living.app.send_task("custom", ["progress.py", {"gate": str(gate)}], queue="customer")
    wait_for(lambda: sent.state == "PROGRESS", "its progress")
    [name] = [key.rpartition(":")[2] for key in living.claims()]
    worker = next(worker for worker in living.all_workers if worker.name == name)
    worker.send(signal.SIGTERM)
    wait_for(lambda: "Warm shutdown" in worker.log.read_text(), "the stop")
    gate.unlink()
    assert sent.get(timeout=20) == "done"
    assert "progress.py is asked" not in worker.log.read_text()
    wait_for(lambda: not worker.alive(), "the worker's end")


def test_a_lost_claim(living: Mesh, tmp_path: Path):
    """DESIGN §6: the parent is frozen, the task runs elsewhere: the first script's next checkpoint ends it, unheard."""
    training = Training(living, tmp_path)
    first = training.waits()
    frozen = training.worker()
    frozen.send(signal.SIGSTOP)
    try:
        training.pids(2)
        assert training.result()["began"] == [0, STEPS - 1]
        wait_for(lambda: not alive(first), "the end of the first run")
        assert "claim lost, run ended" in frozen.log.read_text()
    finally:
        frozen.send(signal.SIGCONT)
    wait_for(lambda: "lease lost" in frozen.log.read_text(), "the frozen worker's return")


def test_the_example_application(living: Mesh):
    """STYLE 16: as its page says."""
    env = {**os.environ, **living.env(), "PYTHONPATH": str(EXAMPLE.parents[2])}
    words = [sys.executable, "-m", "training", "5"]
    ran = subprocess.run(words, capture_output=True, text=True, env=env, check=False, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert " of 5\n" in ran.stdout
    assert "'began_at': [0]" in ran.stdout


def test_the_example_ends_with_the_same_numbers(living: Mesh):
    """F2, P1: killed in the middle, a real training ends as one that was left alone, to the last digit."""
    options = {"requirements": {"epochs": 25, "batch_size": 50}, "queue": "customer"}
    alone = living.app.send_task("training", ["spirals.py"], **options)
    killed = living.app.send_task("training", ["spirals.py", {"pace_s": 0.05}], **options)
    child = wait_for(lambda: killed.state == "STARTED" and killed.info, "its start")["pid"]
    wait_for(lambda: killed.state == "PROGRESS" and killed.info["done"] >= 5, "some epochs")
    os.kill(child, signal.SIGKILL)
    found, expected = killed.get(timeout=30), alone.get(timeout=30)
    first, second = found.pop("began_at")
    assert first == 0
    assert 5 <= second < 25
    assert expected.pop("began_at") == [0]
    assert found == expected
    assert found["accuracy"] > 0.95
