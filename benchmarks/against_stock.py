"""One worker of stock Celery and one of ours on the same Redis, measured in turns; medians and ratios."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.processes import environment
from benchmarks.rows import Rows, row, text
from gpu_mesh.store.embedded import EmbeddedRedis

#: Turns of each side.
ROUNDS = 5
QUEUES = "revenue,customer,ai-realtime,internal,ai-batch"
SIDES = ("stock", "mesh")


def run() -> Rows:
    """Medians of ROUNDS turns."""
    samples: dict[str, dict[str, list[float]]] = {side: {} for side in SIDES}
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder)) as server:
        server.prepare()
        url = server.start().url
        databases = {"stock": url.removesuffix("/0") + "/1", "mesh": url}
        with worker("stock", databases["stock"], folder), worker("mesh", databases["mesh"], folder):
            for side in SIDES:
                measure(side, databases[side], folder)  # warm
            for _ in range(ROUNDS):
                for side in SIDES:
                    for name, value in measure(side, databases[side], folder).items():
                        samples[side].setdefault(name, []).append(value)
    units = {"idle_dispatch_p50": "ms", "idle_dispatch_p99": "ms", "noop_throughput": "tasks/s", "publish_cost": "ms"}
    found: Rows = {}
    for name, unit in units.items():
        ours, theirs = (statistics.median(samples[side][name]) for side in ("mesh", "stock"))
        found[name] = row(ours, unit, theirs)
    return found


@contextmanager
def worker(side: str, url: str, folder: str) -> Iterator[None]:
    """A worker of one process on the five queues."""
    module = ["celery", "-A", "benchmarks.stock"] if side == "stock" else ["workers"]
    command = [
        *(sys.executable, "-m", *module, "--quiet", "worker", f"--hostname=bench@{side}", f"--queues={QUEUES}"),
        *("--concurrency=1", "--pool=prefork", "--without-mingle", "--without-gossip", "--loglevel=WARNING"),
    ]
    process = subprocess.Popen(command, env=environment(side, url, folder), stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def measure(side: str, url: str, folder: str) -> dict[str, float]:
    """One turn, in a process of its own: the two apps must not meet."""
    command = [sys.executable, "-m", "benchmarks.turn", side]
    ran = subprocess.run(
        command, env=environment(side, url, folder), capture_output=True, text=True, timeout=120, check=True
    )
    return dict(json.loads(ran.stdout.splitlines()[-1]))


if __name__ == "__main__":
    print(text(run()))
