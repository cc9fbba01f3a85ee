"""Does every panel show something? Run by hand: python deploy/grafana/check_panels.py [--json FILE]

Starts a mesh of pretended GPUs with its API, gives it work, has a real Prometheus scrape it every second, and asks that
for each panel's query. Exit code 1 where a panel that can have data has none; 2 where there is no Prometheus.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DASHBOARD = HERE / "dashboards" / "gpu-mesh.json"
PROMETHEUS = HERE.parent / "prometheus"
DEVICES = "fake:RTX 4090:24,fake:A40:40"
NODE = "panels"
#: How long a part may take to be there, and the panels to be filled, s.
START_S, FILL_S = 90.0, 60.0
#: What pretended GPUs do not read.
CANNOT = frozenset({"Power"})
TASKS = """
import time
from celery import shared_task

@shared_task(bind=True)
def work(self, seconds=0.01):
    time.sleep(seconds)

@shared_task
def broken():
    raise ValueError("as it should")

@shared_task(bind=True, queue="ai-batch")
def long(self, rounds=100):
    for number in range((self.restored or 0), rounds):
        time.sleep(0.1)
        self.checkpoint(number)
"""


def main() -> int:
    """Check them all; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--for", type=float, default=0.0, dest="seconds", help="go on for so long at least, s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what each query answered, and over time")
    given = parser.parse_args()
    if shutil.which("prometheus") is None:
        sys.stderr.write("there is no prometheus on PATH: install Debian's package of that name\n")
        return 2
    with tempfile.TemporaryDirectory(prefix="gpu-mesh-panels-") as folder, ExitStack() as stack:
        began = time.time()
        api, prometheus = free_port(), free_port()
        stack.enter_context(mesh(Path(folder), api))
        stack.enter_context(scraping(Path(folder), prometheus, api))
        found = fill(prometheus, given.seconds)
        for panel in found:
            told(panel)
        rules = ask(prometheus, "rules")["groups"]
        broken = [
            f"{one['name']}: {one['lastError']}" for group in rules for one in group["rules"] if one.get("lastError")
        ]
        if given.json:
            over_time(prometheus, found, began)
            given.json.write_text(json.dumps({"panels": found, "rules": rules}, indent=1), encoding="utf-8")
    empty = [panel["title"] for panel in found if not panel["filled"] and panel["title"] not in CANNOT]
    say(f"{sum(panel['filled'] for panel in found)} of {len(found)} panels return data; cannot here: {sorted(CANNOT)}")
    for line in (*(f"EMPTY {title}" for title in empty), *broken):
        say(line)
    return 1 if empty or broken else 0


def say(line: str) -> None:
    """To standard output."""
    sys.stdout.write(line + "\n")


def told(panel: dict[str, Any]) -> None:
    """A panel in one line, and its queries."""
    say(f"{'ok   ' if panel['filled'] else 'EMPTY'} {panel['row']}: {panel['title']}")
    for query in panel["queries"]:
        values = ", ".join(f"{float(one['value'][1]):.4g}" for one in query["result"][:4])
        more = "" if len(query["result"]) <= 4 else f" and {len(query['result']) - 4} more"
        say(f"        {values or '-'}{more}  <- {query['expr']}")


def panels() -> list[dict[str, Any]]:
    """Each panel's title, row and queries, with values for Grafana's variables."""
    found, row = [], ""
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
            continue
        queries = [{"expr": plain(one["expr"]), "legend": one["legendFormat"]} for one in panel["targets"]]
        found.append({"title": panel["title"], "row": row, "queries": queries, "unit": unit(panel)})
    return found


def unit(panel: dict[str, Any]) -> str:
    """In which the panel shows its values."""
    return str(panel["fieldConfig"]["defaults"]["unit"])


def plain(expr: str) -> str:
    """A query without Grafana's variables."""
    return re.sub(r"\$(instance|node|queue)", ".*", expr).replace("$__rate_interval", "20s")


def fill(port: int, seconds: float) -> list[dict[str, Any]]:
    """Have the mesh work until every panel that can be is filled, or FILL_S are over; for `seconds` at least."""
    from gpu_mesh.celery import app  # here: it takes the settings that `mesh` wrote

    began, found, count = time.monotonic(), panels(), 0
    while True:
        if count % 20 == 0:
            app.send_task("panel_tasks.long", queue="ai-batch")
        for number in range(4):
            queue = ("customer", "internal", "revenue", "ai-realtime")[number]
            priority, needs = (number * 3) % 11, {"model": f"model-{(count + number) % 3}"}
            app.send_task("panel_tasks.work", (0.02,), queue=queue, priority=priority, requirements=needs)
        app.send_task("panel_tasks.broken", queue="internal")
        count += 1
        for panel in found:
            for query in panel["queries"]:
                query["result"] = ask(port, "query", query=query["expr"])["result"]
            panel["filled"] = all(query["result"] and not all_nan(query["result"]) for query in panel["queries"])
        filled = all(panel["filled"] or panel["title"] in CANNOT for panel in found)
        if time.monotonic() - began > (seconds if filled else max(seconds, FILL_S)):
            return found
        time.sleep(0.5)


def all_nan(result: list[dict[str, Any]]) -> bool:
    """Whether no value is a number."""
    return all(one["value"][1] == "NaN" for one in result)


def over_time(port: int, found: list[dict[str, Any]], began: float) -> None:
    """Add to each query what it answered since then."""
    for panel in found:
        for query in panel["queries"]:
            told = ask(port, "query_range", query=query["expr"], start=began, end=time.time(), step=1)
            query["range"] = told["result"]


@contextmanager
def mesh(folder: Path, port: int) -> Iterator[None]:
    """`gpu-mesh up` with its API; this process is then a client of it."""
    (folder / "panel_tasks.py").write_text(TASKS, encoding="utf-8")
    os.environ.update(
        GPU_MESH_STATE_DIR=str(folder / "state"),
        GPU_MESH_LOCK_DIR=str(folder / "locks"),
        GPU_MESH_API_ENABLED="true",
        GPU_MESH_API_PORT=str(port),
        GPU_MESH_HEALTH_EVERY_S="2",
        GPU_MESH_ENGINES="local",
        GPU_MESH_PEAK_HOURS="none",
        GPU_MESH_INCLUDE="panel_tasks",
        GPU_MESH_STOP_TIMEOUT_S="5",
        NODE_NAME=NODE,
        PYTHONPATH=os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))),
    )
    argv = [sys.executable, "-m", "gpu_mesh", "up", "--devices", DEVICES]
    with running(argv, folder / "mesh.log"):
        await_true(
            lambda: b"gpumesh_workers" in read(f"http://127.0.0.1:{port}/metrics"), "the API", folder / "mesh.log"
        )
        yield


@contextmanager
def scraping(folder: Path, port: int, target: int) -> Iterator[None]:
    """A Prometheus with the configuration of deploy/prometheus, but each second."""
    text = (PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8")
    for was, now in (
        (r"_interval: 15s", "_interval: 1s"),
        (r"scrape_timeout: 10s", "scrape_timeout: 1s"),
        (r"rules/\*\.yml", str(PROMETHEUS / "rules" / "*.yml")),
        (r"127\.0\.0\.1:8001", f"127.0.0.1:{target}"),
    ):
        text, count = re.subn(was, now, text)
        assert count, was
    config = folder / "prometheus.yml"
    config.write_text(text, encoding="utf-8")
    argv = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with running(argv, folder / "prometheus.log"):
        url = f"http://127.0.0.1:{port}/-/ready"
        await_true(lambda: bool(read(url)), "Prometheus", folder / "prometheus.log")
        yield


@contextmanager
def running(argv: list[str], log: Path) -> Iterator[None]:
    """A process until the block ends."""
    with log.open("wb") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def await_true(is_there: Callable[[], bool], what: str, log: Path) -> None:
    """Wait until it is; end with its log after START_S."""
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        try:
            if is_there():
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"{what} is not there after {START_S:g} s:\n{log.read_text(errors='replace')[-4000:]}")


def read(url: str) -> bytes:
    """What a GET answers. Raises OSError."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


def ask(port: int, what: str, **parameters: Any) -> dict[str, Any]:
    """Prometheus's API."""
    url = f"http://127.0.0.1:{port}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
    data: dict[str, Any] = json.loads(read(url))["data"]
    return data


def free_port() -> int:
    """One of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
