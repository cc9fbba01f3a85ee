"""What a real mesh counts is what was run, exactly (SPEC H3, H8, P4); `gpu-mesh stats`, `top`, the log's lines."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import sample_tasks
import yielding_tasks
from processes import START_S, gpu_mesh, run
from waiting import wait_for

from gpu_mesh.celery import app
from gpu_mesh.domain.stats import Outcome
from gpu_mesh.services import lookup, snapshot
from gpu_mesh.services.reporting import line, report_stats
from gpu_mesh.services.stats import failures, report
from gpu_mesh.settings import settings
from gpu_mesh.store import counters, stats
from gpu_mesh.store.client import connect

MODEL = "llama3:8b"
WORKER = "gpu0@meter"
#: How long one thing may take here, s.
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def mesh(empty_redis: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One worker, which has done one of each; the folder of its files."""
    folder = tmp_path_factory.mktemp("meter")
    env = {
        "NODE_NAME": "meter",
        "GPU_MESH_INCLUDE": "sample_tasks,yielding_tasks",
        "GPU_MESH_GPU_COSTS": "RTX 4090=3600",  # one a second
        "GPU_MESH_PREEMPT_AFTER_S": "0",
    }
    with gpu_mesh("worker", "--devices", "fake:RTX 4090:24", log=folder / "log", ready=f"{WORKER} ready.", env=env):
        _run_one_of_each(folder)
        yield folder


def _run_one_of_each(folder: Path) -> None:
    for number in range(3):
        assert sample_tasks.add.apply_async((number, 1), model=MODEL).get(timeout=PATIENCE_S) == number + 1
    with pytest.raises(ValueError, match="wrong"):
        sample_tasks.fail.apply_async(("wrong",), model=MODEL).get(timeout=PATIENCE_S)
    assert sample_tasks.flaky.apply_async((2,)).get(timeout=PATIENCE_S)["retries"] == 2
    _preempt(folder)
    _cancel(folder)
    _kill(folder)


def _preempt(folder: Path) -> None:
    gate = folder / "gate"
    gate.touch()
    ledger = str(folder / "ledger")
    long = yielding_tasks.count.apply_async((ledger, str(gate)), queue="ai-batch")
    wait_for(Path(f"{gate}.steps").exists, "the first step", PATIENCE_S)
    yielding_tasks.quick.apply_async((ledger,), queue="customer").get(timeout=PATIENCE_S)
    gate.unlink()
    long.get(timeout=PATIENCE_S)


def _hold(folder: Path, name: str) -> tuple[object, Path, int]:
    path = folder / name
    task = sample_tasks.hold.apply_async((str(path),), queue="internal")
    wait_for(lambda: path.exists() and path.read_text(), name, PATIENCE_S)
    return task, path, int(path.read_text())


def _cancel(folder: Path) -> None:
    task, _, _ = _hold(folder, "cancelled")
    assert lookup.cancel(app, settings(), task.id).was == "running"
    wait_for(lambda: _count(Outcome.REVOKED), "the cancelled run's end", PATIENCE_S)


def _kill(folder: Path) -> None:
    """SIGKILL of the worker, mid-job: the job runs again and is lost once."""
    task, path, child = _hold(folder, "killed")
    os.kill(psutil.Process(child).ppid(), signal.SIGKILL)
    wait_for(lambda: int(path.read_text() or child) != child, "its second run", START_S)
    path.unlink()
    task.get(timeout=PATIENCE_S)


def _count(outcome: Outcome) -> int:
    with connect(settings()) as client:
        return counters.totals(client).outcomes().get(outcome, 0)


#: By queue, what `_run_one_of_each` did.
DONE = {
    "internal": {"success": 3 + 1 + 1, "failure": 1, "retry": 2, "revoked": 1, "lost": 1},
    "ai-batch": {"success": 1, "preempted": 1},
    "customer": {"success": 1},
}


def test_the_counters_agree_with_what_was_run(mesh: Path) -> None:
    wait_for(lambda: _count(Outcome.SUCCESS) == 7, "the last ack", PATIENCE_S)
    made = report(settings(), 600)
    assert {one.queue: one.outcomes for one in made.queues} == DONE
    total = Counter[str]()
    for outcomes in DONE.values():
        total.update(outcomes)
    assert made.outcomes == dict(total)
    (device,) = made.nodes[0].devices
    assert (device.worker, device.outcomes) == (WORKER, dict(total))
    assert made.preemptions == 1
    journal = Counter(task.state for task in lookup.finished_tasks(settings(), 100))
    assert journal == {"SUCCESS": 7, "FAILURE": 1, "REVOKED": 1}  # a run that is tried again is no failure
    with connect(settings()) as client:
        assert failures(client, 600) == (1, 8)
    assert made.failure_share == pytest.approx(1 / 8)


def test_times_busy_share_and_cost_fit_together(mesh: Path) -> None:
    """P4: cost is run time by the device's price; what ran is what the device was busy with."""
    made = report(settings(), 600)
    (device,) = made.nodes[0].devices
    assert device.ran_s > 0.1
    assert device.cost == pytest.approx(device.ran_s)  # the price: one a second
    assert device.busy_share == pytest.approx(device.ran_s / made.span_s)
    (model,) = made.models
    assert (model.model, model.worker, model.gpu_type) == (MODEL, WORKER, "RTX 4090")
    assert model.outcomes == {"success": 3, "failure": 1}
    assert model.failure_share == pytest.approx(0.25)
    assert 0 < model.ran.p50 < 5
    for queue in made.queues:
        assert 0 <= queue.waited.p50 <= queue.waited.p95 <= queue.waited.p99 < 60


def test_stats_for_people_and_programs(mesh: Path) -> None:
    ran = run("stats", "--last", "10min", "--json")
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert {one["queue"]: one["outcomes"] for one in told["queues"]} == DONE
    assert told["span_s"] >= 600
    shown = run("stats", "--last", "1h", "--model", MODEL, env={"COLUMNS": "120"})
    (cells,) = [cells for cells in map(str.split, shown.stdout.splitlines()) if MODEL in cells]
    assert cells[1:4] == [WORKER, "3", "1"]
    whole = run("stats", env={"COLUMNS": "80"}).stdout
    assert "7 success" in whole
    assert all(len(row) <= 80 for row in whole.splitlines())
    wrong = run("stats", "--last", "a week")
    assert wrong.returncode == 2
    assert "--last" in wrong.stderr


def test_the_report_is_said_and_kept(mesh: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        report_stats(settings())
    said = [record for record in caplog.records if getattr(record, "action", "") == "stats"]
    assert said[0].getMessage().startswith("last 5 min: ")
    with connect(settings()) as client:
        (kept,) = stats.reports(client)
        assert kept["span_s"] == 300
    assert line(snapshot.read(settings())).startswith("nodes 1 devices 1 busy 0 waiting 0 running 0 done/min ")


def test_one_frame_of_top(mesh: Path) -> None:
    task, path, _ = _hold(mesh, "shown")
    try:
        for columns in (80, 160):
            ran = run("top", "--once", env={"COLUMNS": str(columns)})
            assert ran.returncode == 0, ran.stderr
            assert "sample_tasks.hold" in ran.stdout
            assert WORKER in ran.stdout
            assert "devices 1 busy 1" in ran.stdout
            assert all(len(row) <= columns for row in ran.stdout.splitlines())
    finally:
        path.unlink()
    task.get(timeout=PATIENCE_S)


@pytest.mark.parametrize("how", ["q", signal.SIGTERM])
def test_top_in_a_terminal_ends_and_leaves_it_as_it_was(mesh: Path, how: str | signal.Signals) -> None:
    master, slave = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "LINES": "24", "COLUMNS": "80"}
    command = [sys.executable, "-m", "gpu_mesh", "top", "--every", "0.2"]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True)
    os.close(slave)
    shown = bytearray()

    def read() -> bool:
        """False once nobody writes any more."""
        try:
            if select.select([master], [], [], 0.1)[0]:
                shown.extend(os.read(master, 65_536))
        except OSError:  # its other end is closed
            return False
        return True

    try:
        # The second frame comes by itself.
        wait_for(lambda: not read() or shown.count(b"node, device") > 1, "a second frame", PATIENCE_S)
        if isinstance(how, signal.Signals):
            process.send_signal(how)
        else:
            os.write(master, how.encode())
        wait_for(lambda: not read(), "its end", PATIENCE_S)
        assert process.wait(PATIENCE_S) == 0, shown
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert b"\x1b[?1049l" in shown  # the screen from before is back
