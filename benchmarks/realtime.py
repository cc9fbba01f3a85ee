"""How long realtime work waits for batch work, and what batch work loses for it: `python -m benchmarks.realtime`.

    realtime_wait_p50_s, _p99_s      from the call to the job's first line, one device, batch saves every 100 ms
    realtime_wait_3_p50_s, _p99_s    the same with three devices of three nodes
    realtime_wait_restart_p99_s      batch marked `restart`, without checkpoints, one device
    realtime_wait_unpreemptible_p99_s  batch that nothing ends, jobs of WHOLE_S
    resume_to_claim_s                median, from the end of a realtime job to the next line of the batch job
    batch_work_lost_pct              what batch work did less, beyond the time that realtime jobs took, at 5 % of those

Realtime jobs arrive at random on a backlog of batch jobs of 30 s. Stock Celery, strict in its queue order, stands
beside in the same run; its batch jobs take STOCK_S, and its waits are given times SCALE. BENCH_REALTIME_SEED changes
the chances.
"""

from __future__ import annotations

import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.ledger import Run
from benchmarks.processes import RedisServer, Sender, wait_for, workers
from benchmarks.rows import Rows, row, text

#: Realtime jobs of a scenario, the mean time between two, and how long each is busy, s.
ARRIVALS, GAP_S, BUSY_S = 100, 0.5, 0.02
#: A batch job, and the time between two of its checkpoints, s.
BATCH_S, STEP_S = 30.0, 0.1
#: Batch jobs of stock, which cannot be ended, s; its waits grow with them.
STOCK_S = 3.0
SCALE = BATCH_S / STOCK_S
#: Batch jobs that nothing ends, s; how many realtime jobs meet them, and the mean time between two, s.
WHOLE_S, WHOLE_ARRIVALS, WHOLE_GAP_S = 2.0, 15, 3.0
#: The 5 %: realtime jobs of LOAD_BUSY_S every LOAD_GAP_S on average, for LOAD_S; before it as long a look without, s.
LOAD_BUSY_S, LOAD_GAP_S, LOAD_S, ALONE_S = 0.2, 4.0, 60.0, 10.0
BATCH, REALTIME = "ai-batch", "ai-realtime"
SEED = 7
#: Longest wait for what was sent to have started, s.
LIMIT_S = 120.0


@dataclass(slots=True)
class Side:
    """One side's workers and sender, and what it was sent."""

    sender: Sender
    nodes: int
    #: Realtime jobs: id → when it was sent, s since the epoch.
    sent: dict[str, float] = field(default_factory=dict)

    def fill(self, task: str, args: Sequence[object], count: int) -> None:
        """Send a backlog of batch jobs and wait until every device runs one."""
        before = len(self._of("start"))
        self.sender.send(task, [str(self.sender.ledger.path), *args], count, (BATCH,))
        wait_for(lambda: len(self._of("start")) >= before + self.nodes, "batch jobs on every device", LIMIT_S)

    def realtime(self, busy_s: float) -> None:
        """Send one realtime job."""
        now = time.time()
        self.sent[self.sender.work(1, busy_s, (REALTIME,))[0]] = now

    def waits(self) -> list[float]:
        """Of all realtime jobs, s; waits until they ended."""
        for task in self.sent:
            self.sender.ended(task, LIMIT_S)
        return [self.sender.started(task) - at for task, at in self.sent.items()]

    def resumes(self) -> list[float]:
        """From the end of a realtime job to the next start of a batch job, where no other realtime job came between."""
        ended, found = None, []
        for run in sorted(self.sender.ledger.runs(), key=lambda run: run.at):
            if run.task in self.sent:
                ended = run.at if run.what == "end" else None
            elif run.what == "start" and ended is not None:
                found.append(run.at - ended)
                ended = None
        return found

    def steps(self, since: float, until: float) -> int:
        """Steps of batch work that were done and kept within a time."""
        return sum(since < run.at <= until for run in self._of("kept"))

    def _of(self, what: str) -> list[Run]:
        return [run for run in self.sender.ledger.runs() if run.what == what and run.task not in self.sent]


def run(seed: int = 0) -> Rows:
    """Every scenario once, each with so many realtime jobs that its percentiles mean something."""
    chance = random.Random(seed or int(os.environ.get("BENCH_REALTIME_SEED", SEED)))
    one = _arrive(["one"], "checkpointed", chance)
    three = _arrive(["one", "two", "three"], "checkpointed", chance)
    restarted = _arrive(["one"], "restartable", chance, beside=False)
    whole, stock_whole = _whole(chance)
    found = {
        f"realtime_wait{name}_p{percent}_s": row(
            _percentile(met.waits, percent), "s", SCALE * _percentile(met.stock_waits, percent)
        )
        for name, met in (("", one), ("_3", three))
        for percent in (50, 99)
    }
    found |= {
        "realtime_wait_restart_p99_s": row(_percentile(restarted.waits, 99), "s"),
        "realtime_wait_unpreemptible_p99_s": row(_percentile(whole, 99), "s", _percentile(stock_whole, 99)),
        "unpreemptible_batch_s": row(WHOLE_S, "s"),
        "resume_to_claim_s": row(statistics.median(one.resumes), "s"),
    }
    return found | {"batch_work_lost_pct": row(_lost_pct(chance), "%")}


@dataclass(frozen=True, slots=True)
class Met:
    """What realtime jobs met, s; of stock nothing where it did not stand beside."""

    waits: list[float]
    resumes: list[float]
    stock_waits: list[float]


def _arrive(nodes: list[str], task: str, chance: random.Random, *, beside: bool = True) -> Met:
    """Ours under a backlog of `task`, stock beside it where it is asked for."""
    with Sides(nodes, ("mesh", "stock") if beside else ("mesh",)) as sides:
        sides.of["mesh"].fill(f"benchmarks.tasks.{task}", [BATCH_S, STEP_S], 4 * len(nodes))
        if beside:
            # As many as it can do in the time; the last ones are left.
            sides.of["stock"].fill("benchmarks.tasks.work", [STOCK_S], 60 * len(nodes))
        for _ in range(ARRIVALS):
            time.sleep(chance.expovariate(1 / GAP_S))
            for side in sides.of.values():
                side.realtime(BUSY_S)
        waits = {name: side.waits() for name, side in sides.of.items()}
        return Met(waits["mesh"], sides.of["mesh"].resumes(), waits.get("stock", []))


def _whole(chance: random.Random) -> tuple[list[float], list[float]]:
    """The waits of both, where nothing ends a batch job; fewer realtime jobs than would queue behind one another."""
    with Sides(["one"], ("mesh", "stock")) as sides:
        sides.of["mesh"].fill("benchmarks.tasks.whole", [WHOLE_S], 60)
        sides.of["stock"].fill("benchmarks.tasks.work", [WHOLE_S], 60)
        for _ in range(WHOLE_ARRIVALS):
            time.sleep(WHOLE_GAP_S * chance.uniform(0.7, 1.3))
            for side in sides.of.values():
                side.realtime(BUSY_S)
        return sides.of["mesh"].waits(), sides.of["stock"].waits()


def _lost_pct(chance: random.Random) -> float:
    """One device: its steps a second with realtime jobs, in the time that these leave, against those without."""
    with Sides(["one"], ("mesh",)) as sides:
        side = sides.of["mesh"]
        side.fill("benchmarks.tasks.checkpointed", [BATCH_S, STEP_S], 6)
        began = time.time()
        time.sleep(ALONE_S)
        loaded = time.time()
        while (left := loaded + LOAD_S - time.time()) > 0:
            time.sleep(min(left, chance.expovariate(1 / LOAD_GAP_S)))
            if left > LOAD_BUSY_S:
                side.realtime(LOAD_BUSY_S)
        over = time.time()
        side.waits()
        busy = sum(
            run.at * (1 if run.what == "end" else -1) for run in side.sender.ledger.runs() if run.task in side.sent
        )
        alone = side.steps(began, loaded) / (loaded - began)
        with_realtime = side.steps(loaded, over) / (over - loaded - busy)
        return 100 * (1 - with_realtime / alone)


class Sides(ExitStack):
    """Workers and senders of each side named, on one Redis, in databases of their own."""

    def __init__(self, nodes: list[str], names: Sequence[str]) -> None:
        super().__init__()
        self.of: dict[str, Side] = {}
        folder = Path(self.enter_context(tempfile.TemporaryDirectory()))
        server = self.enter_context(RedisServer(folder))
        for database, name in enumerate(names):
            self.enter_context(workers(name, nodes, server.url(database), folder))
            sender = self.enter_context(Sender(name, server.url(database), folder))
            self.of[name] = Side(sender, len(nodes))


def _percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that so many percent of them do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


if __name__ == "__main__":
    print(text(run()))
