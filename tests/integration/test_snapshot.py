"""The read model survives what is broken or missing in Redis, and is JSON-ready as the REST API serves it (SPEC H3)."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import redis

from gpu_mesh.domain.alerts import Alert, Level
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.domain.health import Finding, Health, Severity, check
from gpu_mesh.services import alerts, snapshot
from gpu_mesh.services.recent_alerts import recent
from gpu_mesh.services.reporting import line, lines
from gpu_mesh.services.stats import report
from gpu_mesh.settings import settings
from gpu_mesh.store import health, keys, leases, nodes
from gpu_mesh.store.client import connect

WORKER = "gpu0@office"


@pytest.fixture
def client(broker: str) -> Iterator[redis.Redis]:
    """A mesh of one node with one device, both checked."""
    with connect(settings()) as found:
        device = Device(name="gpu0", node="office", kind=DeviceKind.FAKE, gpu_type="RTX 4090", memory_gb=24)
        node = nodes.Node(name="office", role="lead", host="h", version="1", devices=(device,))
        nodes.register(found, node, instance="here", ttl_s=60)
        warned = check(Health(), 1.0, [Finding(Severity.WARNING, "load", "load 0.97", "rest")])
        health.keep(
            found,
            [
                health.Checked("node:office", warned, 3.5, report={"load": 0.97, "memory": 0.5, "disk": 0.25}),
                health.Checked(
                    f"device:{WORKER}",
                    check(Health(), 1.0, []),
                    12.0,
                    ("llama3:8b",),
                    {"device": {"memory_used_gb": 18, "memory_total_gb": 24.0, "utilisation": 0.5}, "held_gb": 1.5},
                ),
                health.Checked("endpoint:a40", check(Health(), 1.0, []), 80.0, url="http://10.8.0.2:11434"),
            ],
        )
        yield found


def test_health_is_in_the_snapshot(client):
    seen = snapshot.read(settings())
    (node,) = seen.nodes
    assert (node.condition.state, node.condition.findings) == ("degraded", ["load 0.97"])
    assert (node.condition.node.load, node.condition.node.disk) == (0.97, 0.25)
    condition = node.devices[0].condition
    assert (condition.state, condition.success_rate, condition.score) == ("healthy", 100.0, 100.0)
    assert (condition.response_ms, condition.models) == (12.0, ["llama3:8b"])
    assert (condition.device.memory_used_gb, condition.device.held_gb) == (18.0, 1.5)
    assert seen.endpoints["a40"].url == "http://10.8.0.2:11434"
    assert json.loads(json.dumps(seen.to_dict()))["nodes"][0]["devices"][0]["condition"]["state"] == "healthy"
    made = report(settings(), 300)
    assert made.nodes[0].condition.score == 50.0  # a warning is half
    assert any("node office: online, degraded, score 50, answers in 4 ms" in said for said in lines(made))


def test_what_is_broken_is_left_out_and_the_rest_is_shown(client):
    leases.renew(client, WORKER, 60, anew=True)
    for broken in ("", "{", "[]", '"text"', "null", "7", '{"node": {}}', '{"health": {"state": "fine"}}'):
        name = f"broken-{broken}"
        client.hset(keys.NODES, name, broken)
        client.hset(keys.HEALTH, f"node:{name}", broken)
        client.hset(keys.CORDONS, f"manual@{name}", broken)
        client.hset(keys.GATES, f"internal|manual@{name}", broken)
        client.hset(keys.claims(WORKER), name, broken)
        client.lpush(keys.ENDED, broken)
        client.lpush(keys.REPORTS, broken)
        client.hset(keys.ALERTS, name, broken)
        client.lpush(keys.ALERTS_PAST, broken)
    odd = {
        "health": {"state": "healthy", "checks": "many", "score": None},
        "response_ms": "soon",
        "report": {"load": []},
    }
    client.hset(keys.HEALTH, "node:odd", json.dumps(odd))
    client.hset(keys.STATS, "swaps_saved", "some")
    client.hset(keys.PREEMPTIONS, "ai-batch|gpu0@office", "often")
    client.set("ai-batch", "a stranger's")
    client.set(keys.count("minute", int(client.time()[0] // 60)), "a stranger's")
    seen = snapshot.read(settings())
    assert [node.name for node in seen.nodes if node.status == snapshot.ONLINE] == ["office"]
    assert seen.nodes[0].devices[0].condition.state == "healthy"
    assert line(seen).startswith("nodes 1 (1 degraded) devices 1")
    assert json.dumps(seen.to_dict())
    assert report(settings(), 300).nodes


def test_alerts_that_stand_or_were_over_lately_are_in_the_snapshot(client):
    """H8: the alerts of the last five minutes, and those that stand, however long."""
    for name, level in (("a", Level.WARNING), ("b", Level.CRITICAL), ("c", Level.ERROR), ("d", Level.INFO)):
        alerts.post(client, Alert(rule="node", subject=name, level=level, text=f"{name} is told"))
    alerts.clear(client, "node", "c", "well again")
    seen = snapshot.read(settings())
    assert [(one.subject, one.level) for one in seen.alerts[:2]] == [("b", "CRITICAL"), ("a", "WARNING")]
    assert {one.subject: one.over_at is None for one in seen.alerts[2:]} == {"c": False, "d": False}
    assert "alerts 4: CRITICAL b: b is told; WARNING a: a is told; " in line(seen)
    assert recent(client, seen.at + 301) == seen.alerts[:2]


def test_an_empty_redis_is_an_empty_mesh(broker):
    seen = snapshot.read(settings())
    assert (seen.nodes, seen.running, seen.alerts) == ([], [], [])
    assert line(seen) == "nodes 0 devices 0 busy 0 waiting 0 running 0 done/min 0 failed 0 alerts 0"
    assert report(settings(), 86_400).outcomes == {}
