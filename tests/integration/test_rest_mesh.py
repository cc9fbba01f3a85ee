"""The mesh, its queues, alerts and statistics over HTTP (SPEC A1, A2)."""

from __future__ import annotations

import pytest
from rest import served

from gpu_mesh.domain.alerts import Alert, Level
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.services import alerts as alert_service
from gpu_mesh.settings import settings
from gpu_mesh.store import cordons, gates, nodes
from gpu_mesh.store.client import connect
from gpu_mesh.tasks.probe import probe

PROBLEM = "application/problem+json"


@pytest.fixture
def client(broker):
    with connect(settings()) as found:
        yield found


@pytest.fixture
def rest(broker):
    with served() as found:
        yield found


def _gpu(name, node, memory_gb=24.0):
    return Device(name=name, node=node, kind=DeviceKind.NVIDIA, gpu_type="NVIDIA GeForce RTX 4090", memory_gb=memory_gb)


def _register(client, name="office", role="lead", devices=2):
    found = nodes.Node(
        name=name, role=role, host="h", version="0", devices=tuple(_gpu(f"gpu{i}", name) for i in range(devices))
    )
    nodes.register(client, found, instance=f"{name}-1", ttl_s=60.0)


class TestStatus:
    def test_an_empty_mesh(self, rest):
        found = rest.get("/mesh/status")
        assert found.status_code == 200
        assert found.json() == {
            "coordinator": None,
            **dict.fromkeys(("total_nodes", "total_gpus", "active_tasks", "queued_tasks", "completed_tasks"), 0),
            "total_vram": 0.0,
            "nodes": {},
        }

    def test_the_orders_shape(self, rest, client):
        """SPEC A2."""
        _register(client)
        _register(client, "rented", "compute", devices=1)
        nodes.leave(client, "rented", instance="rented-1")
        probe.apply_async(["a"], business="customer")
        probe.apply_async(["b"], business="revenue")
        found = rest.get("/mesh/status").json()
        assert found["coordinator"] == "office"
        assert (found["total_nodes"], found["total_gpus"], found["total_vram"]) == (1, 2, 48.0)
        assert (found["active_tasks"], found["queued_tasks"], found["completed_tasks"]) == (0, 2, 0)
        assert found["nodes"]["office"] == {
            "gpu_count": 2,
            "gpu_type": "NVIDIA GeForce RTX 4090",
            "gpu_memory": 48.0,
            "status": "online",
            "health": "unknown",
            "active_tasks": 0,
            "completed_tasks": 0,
        }
        assert found["nodes"]["rented"]["status"] == "offline"


class TestNodes:
    def test_by_page(self, rest, client):
        for name in ("a", "b", "c"):
            _register(client, name)
        first = rest.get("/mesh/nodes", params={"limit": 2}).json()
        assert (list(first["nodes"]), first["total"], first["next"]) == (["a", "b"], 3, "b")
        last = rest.get("/mesh/nodes", params={"limit": 2, "cursor": first["next"]}).json()
        assert (list(last["nodes"]), last["next"]) == (["c"], None)

    def test_by_what_they_are(self, rest, client):
        _register(client, "a")
        _register(client, "b")
        nodes.leave(client, "b", instance="b-1")
        assert list(rest.get("/mesh/nodes", params={"status": "offline"}).json()["nodes"]) == ["b"]
        assert list(rest.get("/mesh/nodes", params={"health": "unknown"}).json()["nodes"]) == ["a", "b"]
        assert list(rest.get("/mesh/nodes", params={"health": "healthy"}).json()["nodes"]) == []
        assert rest.get("/mesh/nodes", params={"status": "asleep"}).status_code == 422

    def test_one(self, rest, client):
        _register(client)
        assert rest.get("/mesh/nodes/office").json()["devices"][0]["worker"] == "gpu0@office"
        missing = rest.get("/mesh/nodes/attic")
        assert (missing.status_code, missing.headers["content-type"]) == (404, PROBLEM)
        assert missing.json()["errors"] == [{"field": "name", "value": "attic", "remedy": "one of office"}]

    def test_draining(self, rest, client):
        _register(client)
        found = rest.post("/mesh/nodes/gpu0@office/drain", json={"until": "2h", "why": "new fan"})
        assert found.status_code == 200
        assert found.json()["was"] is False
        assert "new fan" in cordons.cordoned(client)["gpu0@office"]
        assert "(API)" in cordons.cordoned(client)["gpu0@office"]
        assert rest.post("/mesh/nodes/gpu0@office/undrain").json()["was"] is True
        assert not cordons.cordoned(client)

    def test_draining_what_is_not_there(self, rest, client):
        _register(client)
        for word in ("drain", "undrain"):
            found = rest.post(f"/mesh/nodes/attic/{word}")
            assert found.status_code == 404
            assert found.json()["errors"][0]["field"] == "name"

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"until": "yesterday"}, "until"),
            ({"grace_s": -1}, "grace_s"),
            ({"move": "perhaps"}, "move"),
            ({"untill": "2h"}, "untill"),
        ],
    )
    def test_a_wrong_drain_names_the_field(self, rest, client, body, field):
        _register(client)
        found = rest.post("/mesh/nodes/office/drain", json=body)
        assert (found.status_code, found.headers["content-type"]) == (422, PROBLEM)
        assert [one["field"] for one in found.json()["errors"]] == [field]
        assert not cordons.cordoned(client)


class TestQueues:
    def test_all_of_them(self, rest):
        probe.apply_async(["a"], business="customer")
        found = rest.get("/queues").json()["queues"]
        assert list(found)[:5] == ["revenue", "customer", "ai-realtime", "internal", "ai-batch"]
        assert (found["customer"]["waiting"], found["revenue"]["waiting"]) == (1, 0)

    def test_pause_and_resume(self, rest, client):
        """DESIGN §7: a gate of the reason `manual`."""
        found = rest.post("/queues/ai-batch/pause", json={"why": "disk full"}).json()
        assert (found["was_paused"], found["until"]) == (False, None)
        assert "disk full" in found["closed"]
        assert [gate.reason for gate in gates.all_gates(client)] == ["manual"]
        assert list(rest.get("/queues", params={"closed": True}).json()["queues"]) == ["ai-batch"]
        assert "disk full" in rest.get("/queues/ai-batch").json()["closed"]
        assert rest.post("/queues/ai-batch/resume").json() == {
            **{"queue": "ai-batch", "scope": "mesh", "was_paused": True, "until": None, "closed": None, "gates": []}
        }
        assert not gates.all_gates(client)

    def test_what_is_no_queue(self, rest):
        assert rest.get("/queues/lunch").status_code == 404
        found = rest.post("/queues/lunch/pause")
        assert found.status_code == 404
        assert "ai-batch" in found.json()["detail"]

    def test_a_queue_that_needs_no_gpu_is_not_paused(self, rest):
        """SPEC Q6."""
        found = rest.post("/queues/rfa-reminders/pause")
        assert found.status_code == 422
        assert found.json()["errors"][0]["field"] == "queue"

    def test_windows(self, rest):
        assert rest.get("/windows").json()["plan"]["hours"] == "none"


class TestAlerts:
    def test_what_stands_and_what_is_over(self, rest, client):
        for rule, level in (("backlog", Level.WARNING), ("memory", Level.ERROR)):
            alert_service.post(client, Alert(rule=rule, subject="mesh", level=level, text=rule, remedy="do"))
        alert_service.clear(client, "memory", "mesh", "over")
        found = rest.get("/alerts").json()
        assert [(one["rule"], one["over_at"] is None) for one in found["alerts"]] == [
            ("backlog", True),
            ("memory", False),
        ]
        assert [one["rule"] for one in rest.get("/alerts", params={"standing": True}).json()["alerts"]] == ["backlog"]
        assert [one["rule"] for one in rest.get("/alerts", params={"level": "ERROR"}).json()["alerts"]] == ["memory"]
        page = rest.get("/alerts", params={"limit": 1}).json()
        assert (len(page["alerts"]), page["total"], page["next"]) == (1, 2, 1)
        assert rest.get("/alerts", params={"offset": 1}).json()["alerts"][0]["rule"] == "memory"

    def test_silences(self, rest, client):
        alert_service.post(client, Alert(rule="backlog", subject="mesh", level=Level.WARNING, text="t"))
        made = rest.post("/alerts/silences", json={"rule": "backlog", "until": "2h", "why": "import"})
        assert made.status_code == 201
        assert rest.get("/alerts").json()["alerts"][0]["silenced"] is True
        assert [one["id"] for one in rest.get("/alerts/silences").json()["silences"]] == [made.json()["id"]]
        assert rest.delete(f"/alerts/silences/{made.json()['id']}").status_code == 200
        assert rest.get("/alerts/silences").json()["silences"] == []
        assert rest.delete(f"/alerts/silences/{made.json()['id']}").status_code == 404

    def test_a_silence_of_no_rule(self, rest):
        found = rest.post("/alerts/silences", json={"rule": "weather"})
        assert found.status_code == 422
        assert found.json()["errors"][0]["field"] == "rule"


class TestStats:
    def test_of_a_span(self, rest):
        found = rest.get("/stats", params={"last": "10min"}).json()
        assert found["outcomes"] == {}
        assert 600 <= found["until"] - found["since"] <= 660

    @pytest.mark.parametrize("params", [{"last": "a while"}, {"last": "2d"}, {"node": "attic"}])
    def test_what_is_refused(self, rest, params):
        found = rest.get("/stats", params=params)
        assert found.status_code == 422
        assert [one["field"] for one in found.json()["errors"]] == list(params)

    def test_reports(self, rest):
        assert rest.get("/stats/reports").json() == {"reports": []}


class TestErrors:
    def test_an_unknown_path(self, rest):
        found = rest.get("/nowhere")
        assert (found.status_code, found.headers["content-type"]) == (404, PROBLEM)
        assert found.json()["instance"] == "/nowhere"

    def test_a_wrong_method(self, rest):
        found = rest.delete("/mesh/status")
        assert (found.status_code, found.headers["content-type"]) == (405, PROBLEM)
        assert found.headers["allow"] == "GET"

    def test_a_body_that_is_no_json(self, rest):
        found = rest.post("/queues/ai-batch/pause", content=b"{", headers={"content-type": "application/json"})
        assert (found.status_code, found.headers["content-type"]) == (400, PROBLEM)

    def test_a_path_of_several_methods_says_them_all(self, rest):
        assert rest.patch("/alerts/silences").headers["allow"] == "GET, POST"
