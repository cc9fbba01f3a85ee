"""The REST API under load, and the three figures promised (SPEC S1): `python -m benchmarks.rest`.

    rest_submit_p50_ms, _p99_ms   POST /tasks/submit, RATE a second for LOAD_S, from when each was due
    rest_lost                     of those, tasks that have not ended in the workers' ledger
    rest_refused                  answers other than 201
    rest_api_cpu_pct              what the API's one process took meanwhile, share of a core
    s1_selection_p99_ms           from the API's send to the claim that names the device, device idle
    s1_dispatch_p99_ms            from the request to the job's first line
    s1_overhead_p99_ms            a request that waits for the end of a job that takes no time

One `gpu-mesh up` with DEVICES pretended devices, its Redis and its one uvicorn process, on the machine's cores; the
load comes from this process, on keep-alive connections, whether or not answers come (open loop).
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from benchmarks.ledger import Ledger
from benchmarks.processes import Up, up
from benchmarks.rows import Rows, row, text

RATE, LOAD_S = 200, 60.0
#: Requests one after the other, for the figures of an idle mesh.
SINGLE = 300
DEVICES = "fake:RTX 4090:24,fake:A40:40"
CONNECTIONS = 64
#: Longest wait for what was sent to have ended, s.
LIMIT_S = 120.0
TASK = "benchmarks.tasks.work"


@dataclass(slots=True)
class Load:
    """What was answered: ids, latencies in s, and answers other than 201."""

    ids: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def run(rate: int = RATE, load_s: float = LOAD_S, single: int = SINGLE) -> Rows:
    """One load, then single requests on the idle mesh."""
    with tempfile.TemporaryDirectory() as name, up(Path(name), "rest", DEVICES) as mesh:
        ledger = Ledger(Path(name) / "ledger")
        api = _api(mesh)
        before, began = api.cpu_times(), time.monotonic()
        load = asyncio.run(_send(mesh.api, str(ledger.path), rate, load_s))
        after, took = api.cpu_times(), time.monotonic() - began
        lost = _lost(ledger, load.ids)
        singles = _singles(mesh.api, single)
    used = after.user + after.system - before.user - before.system
    rows = {
        "rest_submit_p50_ms": row(1000 * statistics.median(load.latencies), "ms"),
        "rest_submit_p99_ms": row(1000 * _p99(load.latencies), "ms"),
        "rest_submitted": row(len(load.ids), "tasks"),
        "rest_refused": row(len(load.refused), "answers"),
        "rest_lost": row(lost, "tasks"),
        "rest_api_cpu_pct": row(100 * used / took, "% of a core"),
    }
    for figure, values in zip(("selection", "dispatch", "overhead"), singles, strict=True):
        rows[f"s1_{figure}_p50_ms"] = row(1000 * statistics.median(values), "ms")
        rows[f"s1_{figure}_p99_ms"] = row(1000 * _p99(values), "ms")
    return rows


async def _send(api: str, path: str, rate: int, load_s: float) -> Load:
    """`rate` requests a second, each begun when it is due."""
    load = Load()
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    async with httpx.AsyncClient(base_url=api, limits=limits, timeout=30) as client:
        began = time.monotonic() + 0.5

        async def one(due: float) -> None:
            answer = await client.post("/tasks/submit", json=_body(path))
            load.latencies.append(time.monotonic() - due)
            if answer.status_code == httpx.codes.CREATED:
                load.ids.append(answer.json()["task_id"])
            else:
                load.refused.append(answer.text)

        async with asyncio.TaskGroup() as group:
            for number in range(int(rate * load_s)):
                due = began + number / rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(one(due))
    return load


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
    return next(child for child in children if child.cmdline()[-2:] == ["gpu_mesh", "api"])


def _p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


if __name__ == "__main__":
    print(text(run()))
