"""`GET /metrics` over a mesh as Redis has it (SPEC A4, H7)."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import redis
from fastapi.testclient import TestClient
from httpx import Response
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain
from rest import served
from sample_tasks import add

from gpu_mesh.api.application import create
from gpu_mesh.api.known_tokens import STALE_S, Known
from gpu_mesh.api.metrics import accepts
from gpu_mesh.api.metrics.collector import KEPT_S, MeshCollector
from gpu_mesh.api.metrics.queues import MODELS
from gpu_mesh.api.metrics.table import MESH, TABLE
from gpu_mesh.domain.alerts import Alert, Level
from gpu_mesh.domain.device import GB, Device, DeviceKind
from gpu_mesh.domain.health import Finding, Health, Severity, check
from gpu_mesh.domain.tokens import Book
from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.services import alerts, tokens
from gpu_mesh.services.ticks import timed
from gpu_mesh.settings import Settings, settings
from gpu_mesh.store import availability, beat, claims, cordons, gates, health, keys, leases, nodes, server, stats
from gpu_mesh.store.client import connect
from gpu_mesh.store.counters import fold
from gpu_mesh.store.tokens import book

WORKER = "gpu0@office"
TOOL = shutil.which("promtool")

#: A sample: name and labels.
Key = tuple[str, frozenset[tuple[str, str]]]


@pytest.fixture
def client(broker: str) -> Iterator[redis.Redis]:
    with connect(settings()) as found:
        yield found


@pytest.fixture
def mesh(client: redis.Redis) -> redis.Redis:
    """Everything that can be measured is there."""
    now = server.now(client)
    devices = tuple(
        Device(name=name, node="office", kind=DeviceKind.FAKE, gpu_type="RTX 4090", memory_gb=24)
        for name in ("gpu0", "gpu1")
    )
    node = nodes.Node(name="office", role="lead", host="h", version="1", devices=devices)
    nodes.register(client, node, instance="here", ttl_s=60)
    lost = check(Health(), now - 7, [Finding(Severity.FAULT, "gpu", "lost")])
    read = {"memory_used_gb": 6, "memory_total_gb": 24, "utilisation": 0.5, "temperature_c": 71, "power_w": 300}
    system = {"load": 0.5, "memory": 0.25, "disk": 0.75, "skew_s": -0.5}
    health.keep(
        client,
        [
            health.Checked("node:office", check(Health(), now - 9, []), 2.0, report=system),
            health.Checked(f"device:{WORKER}", lost, 12.0, ("llama3:8b",), {"device": read, "held_gb": 1.5}),
            health.Checked("endpoint:a40", check(Health(), now - 9, []), 80.0, url="http://10.8.0.2:11434"),
        ],
    )
    for worker in (WORKER, "control@office", "cpu@office"):
        leases.renew(client, worker, 60, anew=True)
    run(client, "customer", ran_s=0.5, model="llama3:8b")
    add.apply_async((1, 1), queue="internal", countdown=3600)
    for _ in range(3):
        add.apply_async((1, 1), queue="internal")
    gates.close(client, "ai-batch", "manual", why="x")
    gates.close(client, "ai-batch", "manual", scope="office")
    cordons.cordon(client, WORKER, "health", why="lost")
    alerts.post(client, Alert(rule="memory", subject=WORKER, level=Level.WARNING, text="full"))
    availability.set_watch(client, availability.Watch(now - 3, now - 3))
    beat.lead(client, "beat", 60)
    beat.begin(client, "beat", {"health": now - 4}, [])
    with timed(settings(), "health", due=now - 1):
        pass
    return client


def run(client: redis.Redis, queue: str, *, ran_s: float, model: str | None = None, outcome: str = "success") -> None:
    """A task of that queue is claimed by WORKER and ends."""
    tag = add.apply_async((1, 1), queue=queue).id
    record = "\t".join((queue, "1000000", "0", "1", "0", "normal", "3000000", "", tag))
    client.hset(keys.claims(WORKER), mapping={tag: record, f"={tag}": "{}"})
    client.delete(queue, f"{queue}:3", f"{queue}:6", f"{queue}:9")
    assert claims.ack(client, WORKER, tag, ended=claims.Ended("", outcome, model, ran_s))


def samples(text: str) -> dict[Key, float]:
    return {(one.name, frozenset(one.labels.items())): one.value for family in plain(text) for one in family.samples}


def scraped() -> dict[Key, float]:
    with served() as api:
        told = api.get("/metrics")
    assert told.status_code == 200, told.text
    return samples(told.text)


def of(found: dict[Key, float], name: str, **labels: str) -> float:
    return found[f"gpumesh_{name}", frozenset(labels.items())]


def test_what_is_told_is_what_the_table_says(mesh):
    """A4: names, types and labels, each of them; in both formats, and as Prometheus's tool wants it."""
    with served() as api:
        api.get("/health")
        text = api.get("/metrics").text
        openly = api.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    told = {
        family.name: (family.type, {frozenset(one.labels.keys() - {"le"}) for one in family.samples})
        for family in plain(text)
        if family.name.startswith("gpumesh_")
    }
    wanted = {row.full: (row.kind, {frozenset(row.labels)}) for row in TABLE}
    # The parser drops the end of a counter's name.
    assert told == {
        name.removesuffix("_total") if kind == "counter" else name: (kind, labels)
        for name, (kind, labels) in wanted.items()
    }
    assert openly.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    names = {family.name for family in open_metrics(openly.text)}
    assert names >= told.keys()
    assert {"process_resident_memory_bytes", "process_cpu_seconds"} <= names


@pytest.mark.skipif(TOOL is None, reason="promtool is not installed")
def test_promtool_finds_nothing(mesh):
    with served() as api:
        api.get("/health")
        text = api.get("/metrics").text
    assert TOOL is not None
    ran = subprocess.run(
        [TOOL, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")


def test_the_figures(mesh):
    found = scraped()
    assert of(found, "up") == 1
    assert of(found, "queue_waiting", queue="internal") == 3
    assert of(found, "queue_waiting", queue="revenue") == 0
    assert of(found, "tasks_delayed") == 1
    assert 0 <= of(found, "queue_oldest_seconds", queue="internal") < 60
    assert of(found, "queue_gates", queue="ai-batch", reason="manual", scope="mesh") == 1
    assert of(found, "queue_gates", queue="ai-batch", reason="manual", scope="node") == 1
    assert of(found, "queue_gates", queue="ai-batch", reason="window", scope="mesh") == 0
    assert (of(found, "queue_closed", queue="ai-batch"), of(found, "queue_closed", queue="internal")) == (1, 0)
    assert of(found, "queue_closings_total", queue="ai-batch", reason="manual") == 2
    labels = {"queue": "customer", "band": "normal"}
    assert of(found, "runs_total", **labels, outcome="success") == 1
    assert of(found, "runs_total", **labels, outcome="failure") == 0
    assert of(found, "task_run_seconds_count", **labels) == 1
    assert of(found, "task_run_seconds_sum", **labels) == 0.5
    assert of(found, "task_run_seconds_bucket", **labels, le="0.631") == 1
    assert of(found, "task_run_seconds_bucket", **labels, le="0.3981") == 0
    assert of(found, "task_wait_seconds_sum", **labels) == 2.0
    assert of(found, "model_runs_total", model="llama3:8b", outcome="success") == 1
    assert of(found, "model_run_seconds_total", model="llama3:8b") == 0.5
    assert of(found, "workers", kind="device") == of(found, "workers", kind="control") == 1
    assert of(found, "alerts", rule="memory", level="WARNING") == 1
    assert of(found, "alerts", rule="backlog", level="WARNING") == 0
    assert 7 <= of(found, "health_check_age_seconds") < 60
    assert of(found, "beat_leading") == 1
    assert 4 <= of(found, "beat_entry_age_seconds", entry="health") < 60
    assert of(found, "tick_runs_total", tick="health") == 1
    assert 1 <= of(found, "tick_late_seconds", tick="health") < 60
    assert of(found, "realtime_available") == 1
    assert of(found, "window_peak") == 0


def test_the_figures_of_nodes_and_devices(mesh):
    found, at = scraped(), {"node": "office", "device": "gpu0"}
    assert of(found, "device_memory_used_bytes", **at) == 6 * GB
    assert of(found, "device_memory_total_bytes", **at) == 24 * GB
    assert of(found, "device_memory_held_bytes", **at) == 1.5 * GB
    assert (of(found, "device_temperature_celsius", **at), of(found, "device_power_watts", **at)) == (71, 300)
    assert of(found, "device_utilisation_ratio", **at) == 0.5
    assert of(found, "device_response_seconds", **at) == 0.012
    states = {state: of(found, "device_state", **at, state=state) for state in ("healthy", "unhealthy", "offline")}
    assert states == {"healthy": 0, "unhealthy": 1, "offline": 0}
    assert of(found, "device_state", node="office", device="gpu1", state="unknown") == 1
    assert (of(found, "device_cordoned", **at), of(found, "device_cordoned", node="office", device="gpu1")) == (1, 0)
    assert 0 < of(found, "device_lease_seconds", **at) <= 60
    assert of(found, "device_lease_seconds", node="office", device="gpu1") == 0
    assert of(found, "device_runs_total", **at, outcome="success") == 1
    assert of(found, "device_busy_seconds_total", **at) == 0.5
    assert (of(found, "node_online", node="office"), of(found, "node_left", node="office")) == (1, 0)
    assert of(found, "node_load_ratio", node="office") == 0.5
    assert of(found, "node_clock_skew_seconds", node="office") == -0.5
    assert of(found, "node_score_ratio", node="office") == 1
    assert of(found, "endpoint_state", endpoint="a40", state="healthy") == 1


def test_a_device_that_serves_a_job_is_busy_and_so_are_its_siblings(mesh):
    mesh.hset(keys.claims(WORKER), mapping={"t": "customer\t1\t0\t1\t0\tnormal\t1\t\tid", "+t": "gpu1@office"})
    found = scraped()
    assert of(found, "queue_running", queue="customer") == 1
    assert [of(found, "device_busy", node="office", device=name) for name in ("gpu0", "gpu1")] == [1, 1]


def test_an_outage_is_told(client):
    """R4."""
    availability.tell(client, availability.Outage(1.0, "no device is there"), 60)
    found = scraped()
    assert of(found, "realtime_available") == 0
    assert of(found, "workers", kind="device") == 0


def test_an_empty_mesh_has_figures_too(broker):
    found = scraped()
    assert of(found, "up") == 1
    assert of(found, "queue_waiting", queue="control") == 0
    assert not [name for name, _ in found if "_node_" in name or "_device_" in name]


def test_strangers_and_broken_entries_cost_no_metric(mesh):
    """What cannot be read is left out, and the rest is told."""
    for broken in ("", "{", "[]", '"text"', "null", "7", '{"node": {}}', '{"health": {"state": "fine"}}'):
        for key in (keys.NODES, keys.HEALTH, keys.GATES, keys.ALERTS, keys.claims(WORKER), keys.count("all")):
            mesh.hset(key, f"broken-{broken}", broken)
        mesh.hset(keys.TICKS, f"x|{broken}", broken)
        mesh.hset(keys.BEAT_RUNS, f"x{broken}", broken)
        mesh.hset(keys.STATS, f"closed|{broken}", broken)
        mesh.lpush(keys.ENDED, broken)
    for key in (keys.OUTBOX, keys.DEAD, "revenue", keys.WINDOWS, keys.PREEMPTIONS, keys.claims("cpu@office")):
        mesh.delete(key)
        mesh.set(key, "a stranger's")
    found = scraped()
    assert of(found, "up") == 1
    assert of(found, "queue_waiting", queue="internal") == 3
    assert of(found, "queue_waiting", queue="revenue") == of(found, "dead_letters") == 0
    assert of(found, "device_temperature_celsius", node="office", device="gpu0") == 71
    mesh.set(keys.LEASES, "a stranger's")
    found = scraped()
    assert of(found, "up") == 1
    assert of(found, "workers", kind="device") == 0


def test_a_redis_that_is_away_is_told_of(free_port):
    """The process answers, so that Prometheus knows it from one that is down."""
    away = Settings(broker_url=f"redis://127.0.0.1:{free_port}/0", _env_file=None)
    with TestClient(create(away), base_url="http://127.0.0.1:8001") as api:
        told = api.get("/metrics")
    found = samples(told.text)
    assert told.status_code == 200
    assert of(found, "up") == 0
    assert not [row.name for row in MESH if row.name != "up" and f"\n{row.full}" in told.text]
    assert ("process_start_time_seconds", frozenset()) in found


def test_tokens_that_cannot_be_checked_hide_the_mesh(mesh):
    """Whoever was let in hears that Redis is away, and no more; nobody else does."""
    _, secret = tokens.create(settings(), "prometheus", ["read"])
    now, away = [100.0], [False]

    def ask(_: Collection[str]) -> Book:
        if away[0]:
            raise BrokerUnavailable("away")
        return book(mesh)

    with served() as api:
        api.app.state.known = Known(ask, lambda: now[0])

        def get(path: str, shown: str) -> Response:
            return api.get(path, headers={"Authorization": f"Bearer {shown}"})

        assert "gpumesh_up 1" in get("/metrics", secret).text
        away[0] = True
        now[0] += STALE_S + 1
        told = get("/metrics", secret)
        assert told.status_code == 200
        assert of(samples(told.text), "up") == 0
        assert "gpumesh_queue" not in told.text
        assert [get("/metrics", shown).status_code for shown in ("", "gpumesh_x_y")] == [401, 401]
        assert get("/queues", secret).status_code == 503
    with served(broker_url="redis://127.0.0.1:1/0", api_listen="0.0.0.0") as api:
        assert api.get("/metrics").status_code == 503


def test_a_redis_that_comes_back_is_read_again(broker):
    now = [100.0]
    collector = MeshCollector(settings(), clock=lambda: now[0])
    try:
        first = list(collector.collect())
        assert list(collector.collect()) == first
        now[0] += KEPT_S
        assert next(iter(collector.collect())).samples[0].value == 1
        assert list(collector.collect()) is not first
    finally:
        collector.close()


def test_those_who_ask_at_once_share_a_reading(mesh):
    """One reading for eight who scrape together, another one for who comes later; three round trips at most."""
    now, together = [100.0], Barrier(8)
    collector = MeshCollector(settings(), clock=lambda: now[0])

    def ask(_: int) -> int:
        together.wait(30)
        return len(list(collector.collect()))

    def readings() -> int:
        return int(mesh.info("commandstats")["cmdstat_info"]["calls"])

    try:
        before = readings()
        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(ask, range(8)))) == 1
        # A reading asks INFO twice, and this look at the counter is one.
        assert readings() - before == 3
        now[0] += KEPT_S
        list(collector.collect())
        assert readings() - before == 6
    finally:
        collector.close()


def test_counters_of_models_never_fall(mesh):
    """However many there are, and whichever come: the others together only grow."""

    def others() -> float:
        found = scraped()
        models = {dict(labels)["model"] for name, labels in found if name == "gpumesh_model_runs_total"}
        assert len(models) <= MODELS + 1
        return found.get(("gpumesh_model_run_seconds_total", frozenset({("model", "other")})), 0.0)

    told = [others()]
    for first in ("m", "z", "a"):
        for number in range(60):
            run(mesh, "customer", ran_s=1.0, model=f"{first}{number:02}")
        told.append(others())
    assert told == sorted(told)
    assert told[-1] > told[0]
    found = scraped()
    assert of(found, "left_out", of="models") == 181 - MODELS
    assert sum(value for (name, _), value in found.items() if name == "gpumesh_model_run_seconds_total") == 180.5


def test_counters_survive_a_node_that_is_forgotten(mesh):
    """What it did stays in the queues' counters; its own series end."""
    before = scraped()
    mesh.delete(keys.NODES)
    after = scraped()
    labels = {"queue": "customer", "band": "normal", "outcome": "success"}
    assert of(after, "runs_total", **labels) == of(before, "runs_total", **labels) == 1
    assert not [name for name, _ in after if name.startswith("gpumesh_device_")]


def test_scripts_that_redis_forgot_are_sent_again(mesh):
    mesh.script_flush()
    assert of(scraped(), "workers", kind="device") == 1


def test_formats(mesh):
    with served() as api:
        zipped = api.get("/metrics", headers={"Accept-Encoding": "gzip"})
        bare = api.get("/metrics", headers={"Accept-Encoding": "identity"})
        odd = api.get(
            "/metrics", headers={"Accept": "application/openmetrics-text; version=x; escaping=\x7f, */*;q=nan"}
        )
    assert zipped.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in bare.headers
    assert bare.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "gpumesh_up 1" in zipped.text
    assert "gpumesh_up 1" in bare.text
    assert len(gzip.compress(bare.content)) < len(bare.content) / 5
    assert odd.text.endswith("# EOF\n")


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; q=0.0, br", False),
        ("", False),
        ("gzipped", False),
    ],
)
def test_accepting(header, taken):
    assert accepts(header, "gzip") is taken


def test_requests_are_counted_by_template(mesh):
    """Paths, methods and queries of strangers make no series."""
    with served() as api:
        for path in ("/health", "/health?x=1", "/no/such", "/tasks/../../x", "/%00"):
            api.get(path)
        api.request("BREW", "/health")
        found = samples(api.get("/metrics").text)
    assert of(found, "http_requests_total", method="GET", route="/health", status="200") == 2
    assert of(found, "http_requests_total", method="GET", route="other", status="404") == 3
    assert of(found, "http_request_seconds_count", method="GET", route="/health") == 2
    # The one that asks.
    assert of(found, "http_requests_open") == 1
    methods = {dict(labels)["method"] for name, labels in found if name == "gpumesh_http_requests_total"}
    assert methods == {"GET", "other"}


def test_work_that_fails_is_counted_as_failed(mesh, free_port):
    with pytest.raises(ZeroDivisionError), timed(settings(), "stats"):
        raise ZeroDivisionError
    assert of(scraped(), "tick_failures_total", tick="stats") == 1
    away = Settings(broker_url=f"redis://127.0.0.1:{free_port}/0", _env_file=None)
    with timed(away, "stats"):
        pass  # nobody hears of it, and nothing fails


def test_lines_of_runs_are_counted_by_whoever_scrapes(mesh):
    """Nobody else need look: a scrape puts them into the counters, once."""
    run(mesh, "customer", ran_s=0.1)
    assert mesh.llen(keys.ENDED) == 2
    labels = {"queue": "customer", "band": "normal", "outcome": "success"}
    assert of(scraped(), "runs_total", **labels) == 2
    assert (mesh.llen(keys.ENDED), fold(mesh)) == (0, 0)
    assert stats.read(mesh)["swaps_saved"] == 0
    assert json.loads(json.dumps(of(scraped(), "runs_total", **labels))) == 2
