"""A storm of SIGKILL on workers and their children, decided by the ledger: `python -m benchmarks.storm`.

    storm_kills       how many processes were killed while tasks waited
    storm_lost        tasks that never ran to their end
    storm_duplicates  ends beyond the first of each task

BENCH_STORM_TASKS, BENCH_STORM_KILLS and BENCH_STORM_SEED change its size and its chances.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import redis

from benchmarks import ledger
from benchmarks.processes import RedisServer, Sender, Worker, wait_for, workers
from benchmarks.rows import Rows, row, text
from gpu_mesh.domain.queues import GPU_QUEUES
from gpu_mesh.store import keys, queues

TASKS, KILLS, SEED = 10_000, 500, 3
NODES = ("one", "two", "three")
#: How long a task is busy, s: long enough for kills to hit one.
WORK_S = 0.005
#: Share of the kills that hit a worker's whole process group; it is started again, which takes seconds.
WORKERS_SHARE = 0.1
#: Share of the tasks that are left when the last kill falls.
CALM_SHARE = 0.02
#: Without an end of a task for so long the storm has failed, s.
STALL_S = 60.0


def run(tasks: int = 0, kills: int = 0, seed: int = 0) -> Rows:
    """One storm."""
    tasks = tasks or int(os.environ.get("BENCH_STORM_TASKS", TASKS))
    kills = kills or int(os.environ.get("BENCH_STORM_KILLS", KILLS))
    chance = random.Random(seed or int(os.environ.get("BENCH_STORM_SEED", SEED)))
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as name,
        RedisServer(folder := Path(name)) as server,
        workers("mesh", NODES, server.url(), folder) as fleet,
        Sender("mesh", server.url(), folder) as sender,
        ThreadPoolExecutor(1) as thread,
    ):
        # Sent while the storm is on.
        sending = thread.submit(sender.work, tasks, WORK_S, GPU_QUEUES)
        killed = _strike(fleet, sender.ledger, tasks, kills, chance)
        sent = sending.result()
        with server.client() as client:
            wait_for(lambda: _settled(client), "the storm's end", 2 * STALL_S)
            dead = client.llen(keys.DEAD)
        ends = sender.ledger.ends()
        starts = Counter(run.task for run in sender.ledger.runs() if run.what == "start")
    rows = {
        "storm_kills": row(killed.total(), "SIGKILLs"),
        "storm_kills_workers": row(killed["worker"], "SIGKILLs"),
        "storm_kills_children": row(killed["child"], "SIGKILLs"),
        "storm_lost": row(ledger.lost(sent, ends), "tasks"),
        "storm_duplicates": row(ledger.duplicates(ends), "runs"),
        "storm_reruns": row(sum(starts.values()) - len(starts), "runs"),
        "storm_dead_letters": row(dead, "tasks"),
        "storm_s": row(time.monotonic() - began, "s"),
    }
    strangers = len(ends.keys() - set(sent))
    print(
        f"storm: {len(sent)} sent, {len(ends)} ended ({strangers} of them not ours), {sum(starts.values())} starts, "
        f"{sum(ends.values())} ends, {dead} dead letters; killed {dict(killed)}"
    )
    return rows


def _are_done(book: ledger.Ledger, count: int) -> bool:
    return len(book.ends()) >= count


def _strike(fleet: list[Worker], book: ledger.Ledger, tasks: int, kills: int, chance: random.Random) -> Counter[str]:
    """Kill, spread over the work; how many of each kind."""
    killed: Counter[str] = Counter()
    while killed.total() < kills:
        due = int(killed.total() / kills * tasks * (1 - CALM_SHARE))
        wait_for(partial(_are_done, book, due), f"{due} tasks done after {dict(killed)}", STALL_S)
        victim = chance.choice(fleet)
        if not victim.ready():
            time.sleep(0.01)
        elif chance.random() < WORKERS_SHARE:
            victim.kill()
            victim.start()
            killed["worker"] += 1
        elif children := victim.children():
            with suppress(ProcessLookupError):
                os.kill(chance.choice(children), signal.SIGKILL)
                killed["child"] += 1
    return killed


def _settled(client: redis.Redis) -> bool:
    """Whether nothing waits or is claimed any more: what has not run is lost."""
    time.sleep(0.2)
    return not any(queues.depths(client, GPU_QUEUES).values()) and not list(client.scan_iter(keys.claims("*")))


if __name__ == "__main__":
    print(text(run()))
