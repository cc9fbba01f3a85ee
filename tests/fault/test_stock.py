"""Stock Celery on the same Redis: beside ours, before ours, after ours (DESIGN §4, issue 3 §11)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bare_workers import Mesh
from processes import START_S
from waiting import wait_for

COUNT = 50
#: Not imported here: in its own processes it is the current app.
STOCK_APP = Path(__file__).parents[1] / "support" / "stock_ledger_app.py"
CPU_QUEUE = "rfa-reminders"


def _env(fleet: Mesh) -> dict[str, str]:
    return {**os.environ, "STOCK_BROKER": fleet.server.url, "STOCK_VISIBILITY_S": "1"}


@contextmanager
def _stock_worker(fleet: Mesh, queue: str) -> Iterator[Path]:
    log = fleet.folder / "stock.log"
    argv = [sys.executable, "-m", "celery", "-A", "stock_ledger_app", "worker", "-Q", queue, "-c", "1", "-n", "stock@x"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*argv, "-l", "INFO", "--without-mingle", "--without-gossip"],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=_env(fleet),
            cwd=STOCK_APP.parent,
            start_new_session=True,
        )
    try:
        wait_for(lambda: "stock@x ready" in log.read_text() or process.poll() is not None, "the stock worker", START_S)
        assert process.poll() is None, log.read_text()
        yield log
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _stock_send(fleet: Mesh, queue: str) -> list[str]:
    argv = [sys.executable, str(STOCK_APP), queue, str(COUNT), str(fleet.ledger.path)]
    sent = subprocess.run(argv, env=_env(fleet), capture_output=True, text=True, timeout=START_S, check=True)
    return sent.stdout.split()


def _all_once(fleet: Mesh, tasks: list[str]) -> None:
    fleet.ended(*tasks)
    fleet.settled()
    assert len(tasks) == COUNT
    assert fleet.ledger.ends() == dict.fromkeys(tasks, 1)


def test_what_stock_celery_sent_is_run_by_ours(fleet: Mesh):
    """DESIGN §4: a switch to the mesh loses nothing: messages without its header count as normal."""
    tasks = _stock_send(fleet, "internal")
    fleet.workers("n1")
    _all_once(fleet, tasks)


def test_what_we_sent_is_run_by_stock_celery(fleet: Mesh):
    """DESIGN §4: a switch back loses nothing, and the mesh's own index of what it sent does not mislead it later."""
    tasks = [fleet.send(queue="internal") for _ in range(COUNT)]
    with _stock_worker(fleet, "internal"):
        _all_once(fleet, tasks)
    fleet.workers("n1")
    last = fleet.send(queue="internal")
    fleet.ended(last)
    assert fleet.ledger.ends() == dict.fromkeys([*tasks, last], 1)


def test_a_stock_worker_leaves_our_claims_alone(fleet: Mesh):
    """Issue 3 §11: it shares a CPU queue and restores what is older than a second; our claim is not among that."""
    ours = fleet.worker("n1", queues=[CPU_QUEUE], device=False).start()
    gate = fleet.folder / "gate"
    held = fleet.hold(gate, queue=CPU_QUEUE)
    fleet.started(held)
    with _stock_worker(fleet, CPU_QUEUE):
        alone = fleet.send(queue=CPU_QUEUE)
        fleet.ended(alone)
        assert [run.worker for run in fleet.ledger.starts(alone)] == ["stock@x"]
        gate.unlink()
        fleet.ended(held)
        shared = [fleet.send(0.02, queue=CPU_QUEUE) for _ in range(COUNT)]
        fleet.ended(*shared)
        fleet.settled()
    assert fleet.ledger.ends() == dict.fromkeys([held, alone, *shared], 1)
    assert {run.worker for run in fleet.ledger.lines()} == {ours.name, "stock@x"}
