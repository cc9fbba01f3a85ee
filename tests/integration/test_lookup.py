"""Where a task is in its queue, and everything that is known of one (SPEC P5, A1; issue 3 §8, §10)."""

from __future__ import annotations

import json
import time

import pytest
from sample_tasks import add

from gpu_mesh import app
from gpu_mesh.domain.claim import Rules
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.errors import InvalidTask
from gpu_mesh.services import gates, lookup, task_lists, tracking
from gpu_mesh.settings import load, settings
from gpu_mesh.store import keys, leases, nodes, queues
from gpu_mesh.store.client import connect

pytestmark = [
    pytest.mark.usefixtures("broker"),
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),
]

WORKER = "gpu0@grave"


def sent_at(age_s: float, **options: object) -> str:
    """A waiting task of that age; its id."""
    task_id = str(add.apply_async((1, 1), **options).id)
    with connect(settings()) as client:
        for name in ("internal", "internal:3", "internal:6", "internal:9"):
            for index, raw in enumerate(client.lrange(name, 0, -1)):
                envelope = json.loads(raw)
                if envelope["headers"]["id"] == task_id:
                    envelope["headers"]["mesh"]["sent_at"] = time.time() - age_s
                    client.lset(name, index, json.dumps(envelope))
    return task_id


def waiting(**options: object) -> list[tuple[int | None, str]]:
    return [(task.position, task.id) for task in lookup.waiting_tasks(settings(), **options)]


class TestPosition:
    def test_by_age_not_by_place(self):
        """A claim from the middle of a list puts the list's oldest element there: position follows the age."""
        ids = [sent_at(age_s) for age_s in (10, 300, 20, 200)]
        expected = [ids[1], ids[3], ids[2], ids[0]]
        assert waiting() == list(enumerate(expected))

    def test_bands_and_aging(self):
        """As the claim scores them: a band goes first, until the other one has waited for long."""
        low, normal, critical = sent_at(0, priority=0), sent_at(0, priority=5), sent_at(0, priority=10)
        assert waiting() == list(enumerate([critical, normal, low]))
        old = sent_at(Rules().horizon_s * 2, priority=0)
        assert waiting() == list(enumerate([old, critical, normal, low]))

    def test_the_horizon_is_the_operators(self, monkeypatch: pytest.MonkeyPatch):
        """GPU_MESH_AGING_HORIZON_S, as the claim has it."""
        monkeypatch.setenv("GPU_MESH_AGING_HORIZON_S", "60")
        current = load()
        fresh, old = sent_at(0, priority=10), sent_at(120, priority=0)
        assert [task.id for task in lookup.waiting_tasks(current)] == [old, fresh]
        assert [task.id for task in lookup.waiting_tasks(settings())] == [fresh, old]

    def test_each_queue_counts_from_zero(self):
        """Queues in canonical order; what is delayed comes last and has no position."""
        internal, revenue = add.delay(1, 1).id, add.apply_async((1, 1), business="revenue").id
        later = add.apply_async((1, 1), countdown=600).id
        assert waiting() == [(0, revenue), (0, internal), (None, later)]
        assert waiting(limit=1) == [(0, revenue)]
        assert waiting(limit=2) == [(0, revenue), (0, internal)]
        assert waiting(queue="internal", limit=2) == [(0, internal), (None, later)]

    def test_hostile_headers_have_a_place(self):
        """Wrong stamps, no header, no JSON: listed where they came in."""
        first = sent_at(100)
        with connect(settings()) as client:
            envelope = json.loads(client.lindex("internal:6", 0))
            for stamp in (float("nan"), "x", 10**400, -5, None):
                envelope["headers"]["mesh"]["sent_at"] = stamp
                envelope["headers"]["id"] = f"stamp-{stamp}"[:12]
                client.lpush("internal:6", json.dumps(envelope))
            client.lpush("internal:6", "no json", "[" * 10_000)
        found = waiting()
        assert len(found) == 8
        assert found[0] == (0, first)

    def test_many(self):
        """The first 50 of thousands, wherever in the list the oldest lies."""
        oldest = sent_at(900)
        with connect(settings()) as client:
            raw = client.lindex("internal:6", 0)
            young = json.loads(raw)
            young["headers"]["mesh"]["sent_at"], young["headers"]["id"] = time.time(), "younger"
            younger = json.dumps(young)
            pipe = client.pipeline()
            for _ in range(10):
                pipe.rpush("internal:6", *[younger] * 1000)
            pipe.execute()
        found = waiting(limit=50)
        assert found[0] == (0, oldest)
        assert len(found) == 50


@pytest.fixture
def claimed() -> str:
    """A task that a worker holds, with another as its standby; its id."""
    task_id = str(add.apply_async((1, 1), priority=9, memory_gb=3).id)
    with connect(settings()) as client:
        leases.renew(client, WORKER, 30, anew=True)
        message = queues.find(client, "internal", task_id)
        assert message is not None
        assert queues.remove(client, message)
        raw = message.raw
        tag = json.loads(raw)["properties"]["delivery_tag"]
        now = str(int(time.time() * 1e6))
        record = "\t".join(["internal", now, "0", "2", "1", "critical", now, "gpu1@other", task_id])
        client.hset(keys.claims(WORKER), mapping={tag: record, f"={tag}": raw, f"+{tag}": "gpu1@grave"})
    return task_id


def test_every_reader_says_the_same_of_one_that_waits():
    """R2, R3, P2: the list of work, a list a page at a time and the look at one agree on its state and why it waits."""
    made_room, misfit, paused = (
        str(add.apply_async((1, 1), **options).id) for options in ({}, {"memory_gb": 48}, {"business": "customer"})
    )
    with connect(settings()) as client:
        device = Device(name="gpu0", node="desk", kind=DeviceKind.FAKE, gpu_type="RTX 4090", memory_gb=24.0)
        node = nodes.Node(name="desk", role="compute", host="desk", version="1", devices=(device,))
        nodes.register(client, node, instance="i", ttl_s=60)
        message = queues.find(client, "internal", made_room)
        assert message is not None
        tag = json.loads(message.raw)["properties"]["delivery_tag"]
        client.set(keys.preempted(tag), 2)
        client.hset(keys.AGAIN, tag, "")
        gates.pause(settings(), "customer", by="ann")
        rows = task_lists.active(client, settings(), task_lists.Filter(), None).rows
    told = {task.id: (task.state, task.why) for task in lookup.waiting_tasks(settings())}
    assert {one: (row.state, row.why) for one, row in rows.items()} == told
    found = {one: tracking.find(app, settings(), one) for one in told}
    assert {one: (task.state, task.why) for one, task in found.items()} == told
    assert told[made_room] == ("PREEMPTED", None)
    assert (told[misfit][0], told[paused][0]) == ("UNSCHEDULABLE", "WAITING")
    assert str(told[paused][1]).startswith("customer: paused by ann")
    assert found[made_room].preemptions == 2


class TestDetails:
    def test_waiting(self):
        """Position, needs and why it waits."""
        add.delay(1, 1)
        sent = add.apply_async((1, 1), memory_gb=48, priority=3)
        found = tracking.find(app, settings(), sent.id)
        assert (found.state, found.name, found.queue, found.priority) == (
            "UNSCHEDULABLE",
            "sample_tasks.add",
            "internal",
            3,
        )
        assert (found.position, found.needs, found.why) == (1, {"memory_gb": 48.0}, "no device is online")
        assert found.waited_s is not None
        assert not found.cancelled

    def test_delayed(self):
        """When it is due."""
        sent = add.apply_async((1, 1), countdown=600)
        found = tracking.find(app, settings(), sent.id)
        assert (found.state, found.position) == ("DELAYED", None)
        assert str(found.why).startswith("due in ")

    def test_claimed(self, claimed: str):
        """P5: the worker that has it, its standby, and how often it was handed out."""
        app.backend.store_result(claimed, None, "STARTED")
        found = tracking.find(app, settings(), claimed)
        assert (found.state, found.worker, found.standby) == ("STARTED", WORKER, "gpu1@other")
        assert (found.deliveries, found.needs, found.priority) == (2, {"memory_gb": 3.0}, 9)

    def test_ended(self):
        """Result or error, and how long it waited and ran."""
        app.backend.store_result("good", {"text": "x"}, "SUCCESS")
        app.backend.store_result("bad", ValueError("no such file"), "FAILURE")
        entry = {"id": "good", "name": "t", "queue": "revenue", "priority": 7, "worker": WORKER, "state": "SUCCESS"}
        entry |= {"sent_at": 1.0, "started_at": 2.0, "waited_s": 1.0, "ran_s": 3.5}
        with connect(settings()) as client:
            client.lpush(keys.FINISHED, json.dumps(entry))
        good, bad = (tracking.find(app, settings(), task_id) for task_id in ("good", "bad"))
        assert (good.state, good.worker, good.queue, good.ran_s) == ("SUCCESS", WORKER, "revenue", 3.5)
        assert good.result == {"text": "x"}
        assert (bad.state, bad.error) == ("FAILURE", ("ValueError", "no such file"))

    def test_cancelled_and_dead(self):
        """That it was taken back; that it is a dead letter, and why."""
        sent = add.delay(1, 1)
        app.control.revoke(sent.id)
        assert tracking.find(app, settings(), sent.id).cancelled
        note = json.dumps({"list": "internal:6", "why": "deliveries", "at": 1.0, "id": "dead", "deliveries": 5})
        with connect(settings()) as client:
            client.lpush(keys.DEAD, f"{note}\n{{}}")
        found = tracking.find(app, settings(), "dead")
        assert (found.state, found.why, found.queue, found.deliveries) == ("DEAD", "deliveries", "internal", 5)

    def test_unknown(self):
        """Said clearly."""
        with pytest.raises(InvalidTask, match="no such task"):
            tracking.find(app, settings(), "nobody")
