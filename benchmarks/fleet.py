"""Dispatch in a simulated fleet on a real Redis with the real scripts: `python -m benchmarks.fleet`.

    fleet_dispatch_p99_ms    100 nodes, 1 000 tasks running: publish to the claim's reply, ms
    fleet10_dispatch_p99_ms  1 000 nodes, 10 000 running

What is simulated and how: docs/benchmarks.md. BENCH_FLEET_WINDOW_S and BENCH_FLEET_NODES ("100,1000") change its size.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import socket
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from benchmarks import claim_cost
from benchmarks.fleet_traffic import check, load_scripts, traffic
from benchmarks.fleet_workers import Fleet
from benchmarks.processes import RedisServer
from benchmarks.rows import Rows, row, text
from benchmarks.wire import Recorder
from gpu_mesh.domain.queues import GPU_QUEUES

#: Devices of a node: one of eleven is idle.
DEVICES, RUNNING = 11, 10
#: Nodes, and how long a job of theirs takes on average, s.
FLEETS = {100: 10.0, 1000: 60.0}
#: Measured in so many windows of so long, s; the figure is the median of theirs.
WINDOWS, WINDOW_S = 5, 8.0
#: How long the workers take to begin, s.
START_S = 1.0
#: Before the first, s, and more of it for each node.
WARM_S, WARM_NODE_S = 5.0, 0.01
SEED = 4


@dataclass(frozen=True, slots=True)
class Measured:
    """A fleet's figures: latencies in ms by window, cores that Redis used, tasks running, claims refused, lags in s."""

    windows: list[list[float]]
    redis_cpu: float
    running: float
    refused: int
    loop_lag_s: float
    traffic_lag_s: float

    def quantile(self, share: float) -> float:
        """Median over the windows."""
        return statistics.median(sorted(found)[int(len(found) * share)] for found in self.windows if found)


def run(window_s: float = 0.0) -> Rows:
    """Each fleet in turn."""
    window_s = window_s or float(os.environ.get("BENCH_FLEET_WINDOW_S", WINDOW_S))
    wanted = os.environ.get("BENCH_FLEET_NODES", ",".join(map(str, FLEETS)))
    rows: Rows = {}
    for nodes in map(int, wanted.split(",")):
        found = measure(nodes, FLEETS[nodes], window_s)
        name = "fleet" if nodes == min(FLEETS) else "fleet10"
        rows[f"{name}_dispatch_p99_ms"] = row(found.quantile(0.99), "ms")
        rows[f"{name}_dispatch_p50_ms"] = row(found.quantile(0.5), "ms")
        rows[f"{name}_running"] = row(found.running, "tasks")
        rows[f"{name}_redis_cpu"] = row(found.redis_cpu, "cores")
        print(
            f"{nodes} nodes: {sum(map(len, found.windows))} dispatches; the simulation itself was late by at most "
            f"{found.loop_lag_s * 1000:.0f} ms (workers) and {found.traffic_lag_s * 1000:.0f} ms (leases); "
            f"{found.refused} claims refused for a lease that had ended"
        )
    return rows


def measure(nodes: int, job_s: float, window_s: float) -> Measured:
    """One fleet."""
    names = [f"gpu{device}@node{node:04}" for node in range(nodes) for device in range(DEVICES)]
    running = nodes * RUNNING
    context = multiprocessing.get_context("spawn")
    go, lag = context.Barrier(3), context.Value("d", 0.0)
    with (
        tempfile.TemporaryDirectory() as folder,
        _many_files(),
        RedisServer(Path(folder), "--maxclients", "19000") as server,
        closing(Fleet(server.port, names, job_s, random.Random(SEED))) as fleet,
        _beside(
            context.Process(target=traffic, args=(server.port, names, go, lag), daemon=True),
            context.Process(target=publisher, args=(server.port, running / job_s, go), daemon=True),
        ),
    ):
        client = server.client()
        load_scripts(client)
        # What runs when it begins.
        claim_cost.publish(client, running, claim_cost.NEEDS[:3])
        fleet.begin(client)
        go.wait(120)
        fleet.start(START_S)
        fleet.run(WARM_S + nodes * WARM_NODE_S)
        before, began = _cpu(client), time.monotonic()
        lag.value, fleet.lag_s, fleet.refused, fleet.latencies_ms = 0.0, 0.0, 0, []
        windows, counts = [], []
        for _ in range(WINDOWS):
            fleet.run(window_s)
            windows.append(fleet.latencies_ms)
            fleet.latencies_ms = []
            counts.append(fleet.running)
        cpu = (_cpu(client) - before) / (time.monotonic() - began)
    return Measured(windows, cpu, statistics.fmean(counts), fleet.refused, fleet.lag_s, lag.value)


@contextmanager
def _many_files() -> Iterator[None]:
    """A connection for each worker, here and in Redis."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def _beside(*helpers: Any) -> Iterator[None]:
    """Processes that run for the block. Raises RuntimeError when one ended by itself."""
    try:
        for helper in helpers:
            helper.start()
        yield
        if not all(helper.is_alive() for helper in helpers):
            raise RuntimeError("a helper process ended by itself: its error is above")
    finally:
        for helper in helpers:
            helper.kill()
            helper.join()


def _cpu(client: redis.Redis) -> float:
    info = client.info("cpu")
    return float(info["used_cpu_sys"]) + float(info["used_cpu_user"])


def publisher(port: int, rate: float, go: Any) -> None:
    """From `go` on publish at a steady rate, in tasks/s; a message's tag begins with when it was published."""
    recorder = Recorder("")
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setblocking(False)
        go.wait()
        due, n = time.monotonic(), 0
        while True:
            time.sleep(max(0.0, due - time.monotonic()))
            due, n = due + 1 / rate, n + 1
            needs, queue = claim_cost.NEEDS[n % 3], GPU_QUEUES[n % len(GPU_QUEUES)]
            claim_cost.publish_one(recorder, queue, needs, f"{time.time():.6f}-{uuid.uuid4()}")
            # Without waiting for the answer: a slow Redis does not lower the rate.
            connection.send(recorder.take())
            check(connection)


if __name__ == "__main__":
    print(text(run()))
