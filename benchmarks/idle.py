"""What a mesh costs that has nothing to do (SPEC H9): `python -m benchmarks.idle`.

    idle_cpu_control_plane_pct  supervisor, control worker, CPU queues' worker, beat and API together, share of a core
    idle_cpu_PART_pct           each of them, a device's worker, and Redis; children count with their parent

`gpu-mesh up` with one pretended device and a Redis of its own; stock Celery has no control plane to compare with.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from benchmarks.processes import up
from benchmarks.rows import Rows, row, text

TURNS = 3
TURN_S = 30.0
#: From the start of all to the first turn, s: what runs as a mesh begins is not idle.
SETTLE_S = 15.0
NODE = "idle"
#: Part → what its command line holds; the supervisor is the process itself.
PARTS = {
    **{"redis": "redis-server", "control": "=control@", "cpu": "=cpu@", "beat": "=beat@", "device": "=gpu0@"},
    "api": "gpu_mesh api",
}
CONTROL_PLANE = ("supervisor", "control", "cpu", "beat", "api")


def run(turns: int = TURNS, seconds: float = TURN_S) -> Rows:
    """Medians of so many turns."""
    with tempfile.TemporaryDirectory() as name, up(Path(name), NODE, "fake:RTX 4090:24") as mesh:
        time.sleep(SETTLE_S)
        shares = [_shares(mesh.pid, seconds) for _ in range(turns)]
    parts = ("supervisor", *PARTS)
    plane = [sum(found[part] for part in CONTROL_PLANE) for found in shares]
    rows = {"idle_cpu_control_plane_pct": row(statistics.median(plane), "% of a core")}
    return rows | {
        f"idle_cpu_{part}_pct": row(statistics.median(found[part] for found in shares), "% of a core") for part in parts
    }


def _shares(pid: int, seconds: float) -> Counter[str]:
    """Percent of a core by part, over so many seconds."""
    before, began = _times(pid), time.monotonic()
    time.sleep(seconds)
    after, passed = _times(pid), time.monotonic() - began
    shares: Counter[str] = Counter()
    for (part, process), used in after.items():
        shares[part] += 100 * max(0.0, used - before.get((part, process), 0.0)) / passed
    return shares


def _times(pid: int) -> dict[tuple[str, int], float]:
    """CPU time by part and process, s."""
    found = {("supervisor", pid): _time(pid)}
    for child in psutil.Process(pid).children(recursive=True):
        try:
            line = " ".join(child.cmdline())
        except psutil.NoSuchProcess:
            continue
        part = next((part for part, word in PARTS.items() if word in line), "supervisor")
        found[part, child.pid] = _time(child.pid)
    return found


def _time(pid: int) -> float:
    """CPU time of a process, s; 0 for one that is gone."""
    try:
        used = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(used.user + used.system)


if __name__ == "__main__":
    print(text(run()))
