"""The REST API under load, and the three figures promised (SPEC S1): `python -m benchmarks.rest`.

    rest_submit_p50_ms, _p99_ms   POST /tasks/submit, RATE a second for LOAD_S, from when each was due
    rest_lost                     of those, tasks that have not ended in the workers' ledger
    rest_refused                  answers other than 201
    rest_api_cpu_pct              what the API's one process took meanwhile, share of a core
    s1_selection_p99_ms           from the API's send to the claim that names the device, device idle
    s1_dispatch_p99_ms            from the request to the job's first line
    s1_overhead_p99_ms            a request that waits for the end of a job that takes no time

One `gpu-mesh up` with DEVICES pretended devices, its Redis and its one uvicorn process, on the machine's cores; the
load comes from this process (benchmarks/load.py).
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import psutil

from benchmarks.ledger import Ledger
from benchmarks.load import send
from benchmarks.processes import Up, up
from benchmarks.rows import Rows, row, text

RATE, LOAD_S = 200, 60.0
#: Requests one after the other, for the figures of an idle mesh.
SINGLE = 300
DEVICES = "fake:RTX 4090:24,fake:A40:40"
#: Longest wait for what was sent to have ended, s.
LIMIT_S = 120.0
TASK = "benchmarks.tasks.work"


def run(rate: int = RATE, load_s: float = LOAD_S, single: int = SINGLE) -> Rows:
    """One load, then single requests on the idle mesh."""
    with tempfile.TemporaryDirectory() as name, up(Path(name), "rest", DEVICES) as mesh:
        ledger = Ledger(Path(name) / "ledger")
        api = _api(mesh)
        before, began = api.cpu_times(), time.monotonic()
        sent = send(mesh.api, "/tasks/submit", _body(str(ledger.path)), rate=rate, seconds=load_s, status=201)
        load = asyncio.run(sent)
        after, took = api.cpu_times(), time.monotonic() - began
        ids = [str(answer["task_id"]) for answer in load.answers]
        lost = _lost(ledger, ids)
        singles = _singles(mesh.api, single)
    used = after.user + after.system - before.user - before.system
    rows = {
        "rest_submit_p50_ms": row(1000 * statistics.median(load.latencies), "ms"),
        "rest_submit_p99_ms": row(1000 * _p99(load.latencies), "ms"),
        "rest_submitted": row(len(ids), "tasks"),
        "rest_refused": row(len(load.refused), "answers"),
        "rest_lost": row(lost, "tasks"),
        "rest_api_cpu_pct": row(100 * used / took, "% of a core"),
    }
    for figure, values in zip(("selection", "dispatch", "overhead"), singles, strict=True):
        rows[f"s1_{figure}_p50_ms"] = row(1000 * statistics.median(values), "ms")
        rows[f"s1_{figure}_p99_ms"] = row(1000 * _p99(values), "ms")
    return rows


def _body(path: str) -> dict[str, object]:
    return {"task_type": TASK, "args": [path, 0.0], "business": "customer", "requirements": {"memory_gb": 1}}


def _lost(ledger: Ledger, ids: Sequence[str]) -> int:
    """How many of them have not ended within LIMIT_S."""
    deadline = time.monotonic() + LIMIT_S
    while (missing := set(ids) - set(ledger.ends())) and time.monotonic() < deadline:
        time.sleep(0.1)
    return len(missing)


def _singles(api: str, count: int) -> tuple[list[float], list[float], list[float]]:
    """Selection, dispatch and overhead of single tasks, which take no time themselves, s."""
    dispatch, overhead, ids = [], [], []
    body = {"task_type": "benchmarks.tasks.started", "business": "customer", "wait": 30}
    with httpx.Client(base_url=api, timeout=60) as client:
        for _ in range(count):
            at, began = time.time(), time.monotonic()
            ended = client.post("/tasks/submit", json=body).raise_for_status().json()
            overhead.append(time.monotonic() - began)
            dispatch.append(float(ended["result"]) - at)
            ids.append(ended["task_id"])
        selection = [float(client.get(f"/tasks/{task}").json()["waited_s"]) for task in ids]
    return selection, dispatch, overhead


def _api(mesh: Up) -> psutil.Process:
    """The process of the API."""
    children = psutil.Process(mesh.pid).children(recursive=True)
    return next(child for child in children if "gpu_mesh api" in " ".join(child.cmdline()))


def _p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


if __name__ == "__main__":
    print(text(run()))
