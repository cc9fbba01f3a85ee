"""SIGKILL to running again, in s: `python -m benchmarks.failover`.

    failover_worker_s      all of a bare worker's process group, another worker idle; the default lease of 10 s decides
    failover_supervised_s  a worker that `gpu-mesh worker` watches, another of the node idle
    failover_child_s       the pool child that runs the job; stock with acks_late and reject_on_worker_lost beside it

Stock gives a dead worker's job back after its visibility timeout, 1 h: no baseline.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import psutil

from benchmarks.processes import ROOT, RedisServer, Sender, Worker, environment, wait_for, workers
from benchmarks.rows import Rows, row, text
from workers.lifeline import parent_death_hook

#: Turns of each kind; three where each costs a lease.
TURNS, WORKER_TURNS = 5, 3
#: Two equal devices of one node.
DEVICES, PAIR = "fake:A40:40,fake:A40:40", ("gpu0@pair", "gpu1@pair")


def run(turns: int = TURNS, worker_turns: int = WORKER_TURNS) -> Rows:
    """Medians of so many turns."""
    child, stock_child = child_s(turns)
    return {
        "failover_worker_s": row(worker_s(worker_turns), "s"),
        "failover_supervised_s": row(supervised_s(turns), "s"),
        "failover_child_s": row(child, "s", stock_child),
    }


def child_s(turns: int) -> tuple[float, float]:
    """Median of ours and of stock, in turns of one another."""
    took: dict[str, list[float]] = {"mesh": [], "stock": []}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        server = stack.enter_context(RedisServer(folder))
        senders = {}
        for database, side in enumerate(took):
            stack.enter_context(workers(side, [side], server.url(database), folder))
            senders[side] = stack.enter_context(Sender(side, server.url(database), folder))
        for _ in range(turns):
            for side, sender in senders.items():
                gate = folder / "gate"
                task = sender.hold(gate)
                sender.started(task)
                killed = time.time()
                os.kill(sender.ledger.starts(task)[0].pid, signal.SIGKILL)
                took[side].append(sender.started(task, 2) - killed)
                gate.unlink()
                sender.ended(task)
    return statistics.median(took["mesh"]), statistics.median(took["stock"])


def worker_s(turns: int) -> float:
    """Median for a bare worker: its machine is gone."""
    took = []
    with (
        tempfile.TemporaryDirectory() as name,
        RedisServer(folder := Path(name)) as server,
        workers("mesh", ["one", "two"], server.url(), folder) as both,
        Sender("mesh", server.url(), folder) as sender,
    ):
        for _ in range(turns):
            gate = folder / "gate"
            task = sender.hold(gate)
            sender.started(task)
            victim = _named(both, sender.ledger.starts(task)[0].worker)
            killed = time.time()
            victim.kill()
            took.append(sender.started(task, 2) - killed)
            gate.unlink()
            sender.ended(task)
            victim.start().await_ready()
    return statistics.median(took)


def _named(found: list[Worker], name: str) -> Worker:
    return next(worker for worker in found if worker.name == name)


def supervised_s(turns: int) -> float:
    """Median for a worker whose supervisor lives."""
    took = []
    with (
        tempfile.TemporaryDirectory() as name,
        RedisServer(folder := Path(name)) as server,
        _node(server.url(), folder) as log,
        Sender("mesh", server.url(), folder) as sender,
    ):
        for turn in range(turns):
            # Each turn killed one: two are ready at first, and one more after each.
            wait_for(partial(_are_ready, log, len(PAIR) + turn), "both workers")
            gate = folder / "gate"
            task = sender.hold(gate)
            sender.started(task)
            parent = psutil.Process(sender.ledger.starts(task)[0].pid).ppid()
            killed = time.time()
            os.kill(parent, signal.SIGKILL)
            took.append(sender.started(task, 2) - killed)
            gate.unlink()
            sender.ended(task)
    return statistics.median(took)


def _are_ready(log: Path, count: int) -> bool:
    said = log.read_text(errors="replace")
    return sum(said.count(f"{name} ready") for name in PAIR) >= count


@contextmanager
def _node(url: str, folder: Path) -> Iterator[Path]:
    """`gpu-mesh worker` with two devices; its log. Ended with the block, and all it started with it."""
    log = folder / "node.log"
    env = {**environment("mesh", url, folder), "NODE_NAME": "pair"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "gpu_mesh", "worker", "--devices", DEVICES],
            env=env,
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
            preexec_fn=parent_death_hook(),
        )
    try:
        yield log
    finally:
        process.terminate()
        process.wait(60)


if __name__ == "__main__":
    print(text(run()))
