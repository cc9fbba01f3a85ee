"""One turn of one side: `python -m benchmarks.turn stock|mesh` prints its figures as JSON."""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time

#: Single tasks sent to an idle worker, and tasks of a burst.
SINGLES, BURST = 60, 400


def main(side: str) -> None:
    """Measure and print."""
    importlib.import_module("benchmarks.stock" if side == "stock" else "gpu_mesh").app.set_default()
    from benchmarks.tasks import noop, started

    started.delay().get(timeout=60)
    waits = []
    for _ in range(SINGLES):
        sent = time.time()
        waits.append((started.delay().get(timeout=60) - sent) * 1000)
    began = time.perf_counter()
    for _ in range(BURST):
        noop.delay()
    published = time.perf_counter() - began
    started.delay().get(timeout=60)
    # The last one was sent behind the burst: it starts when the burst is done.
    took = time.perf_counter() - began
    waits.sort()
    figures = {
        "idle_dispatch_p50": statistics.median(waits),
        "idle_dispatch_p99": waits[int(len(waits) * 0.99)],
        "publish_cost": published / BURST * 1000,
        "noop_throughput": BURST / took,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1])
