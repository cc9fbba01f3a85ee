"""The mesh's events: what each type says, and that no task's contents are in them (issue 7 §1)."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from gpu_mesh.domain.happenings import FIELDS, happened
from gpu_mesh.services.changes import changes
from gpu_mesh.services.health_views import HealthView
from gpu_mesh.services.recent_alerts import AlertView
from gpu_mesh.services.retelling import KEPT, Reteller
from gpu_mesh.services.snapshot import OFFLINE, ONLINE, DeviceView, NodeView, QueueView, Snapshot

DOC = Path(__file__).parents[2] / "docs" / "events.md"
ROW = re.compile(r"^\| `(?P<type>[a-z]+\.[a-z]+)` \| (?P<fields>[^|]*) \|", re.MULTILINE)
SECRET = "s3cret"
WORKER = "gpu0@n1"


def test_the_documented_table_is_the_code():
    """docs/events.md names every type and its fields, in order."""
    documented = {row["type"]: tuple(re.findall(r"`(\w+)`", row["fields"])) for row in ROW.finditer(DOC.read_text())}
    assert documented == FIELDS


def test_an_event_has_all_its_fields_and_no_other():
    """Names are stable: None where nothing is known."""
    assert happened("worker.silent", 1.0, worker=WORKER) == {
        "type": "worker.silent",
        "at": 1.0,
        "worker": WORKER,
        "silent_s": None,
    }
    with pytest.raises(ValueError, match="args"):
        happened("task.sent", 1.0, args="[]")


# Celery's events


def told(*events: dict[str, object], reteller: Reteller | None = None) -> list[dict[str, object]]:
    reteller = reteller or Reteller()
    return [told for event in events for told in reteller.retell({"timestamp": 5.0, "hostname": WORKER, **event}, 9.0)]


def test_a_preempted_task_reads_rightly():
    """R3: it made room and runs again; nothing failed. Name and queue are in every event of it."""
    contents = {"args": SECRET, "kwargs": SECRET, "result": SECRET, "traceback": SECRET}
    kinds = ("task-sent", "task-received", "task-started", "task-retried", "task-received", "task-succeeded")
    events = [{"type": kind, "uuid": "t", **contents} for kind in kinds]
    events[0] |= {"name": "train", "queue": "ai-batch"}
    events[3] |= {"exception": "Preempted('ai-realtime work waits')"}
    events[5] |= {"runtime": 2.5}
    found = told(*events)
    assert [event["type"].removeprefix("task.") for event in found] == [
        *("sent", "received", "started", "preempted", "received", "succeeded")
    ]
    assert {(event["task_id"], event["name"], event["queue"]) for event in found} == {("t", "train", "ai-batch")}
    assert [event["worker"] for event in found] == [None, *[WORKER] * 5]
    assert (found[3]["why"], found[5]["ran_s"], found[0]["at"]) == ("ai-realtime work waits", 2.5, 5.0)
    assert SECRET not in repr(found)


@pytest.mark.parametrize(("kind", "type"), [("task-failed", "task.failed"), ("task-retried", "task.retried")])
def test_an_error_is_told_by_its_class_alone(kind: str, type: str):
    """Its text may hold anything."""
    (found,) = told({"type": kind, "uuid": "t", "exception": f"ValueError('{SECRET}')"})
    assert (found["type"], found["error"]) == (type, "ValueError")
    assert SECRET not in repr(found)


def test_what_is_not_told():
    """The mesh's own tasks, heartbeats, what others may publish."""
    own = {"type": "task-sent", "uuid": "t", "name": "mesh.health"}
    odd = [{"type": "task-sent", "uuid": 5}, {"type": "task-sent"}, {"type": 7}, {}, {"type": "worker-heartbeat"}]
    assert told(own, {"type": "task-started", "uuid": "t"}, *odd) == []


def test_names_of_what_ran_before_are_known_and_not_all_kept():
    """A client that comes late reads them too; memory is bounded."""
    reteller = Reteller()
    reteller.remember([{"id": "early", "name": "train", "queue": "ai-batch"}])
    (found,) = told({"type": "task-succeeded", "uuid": "early"}, reteller=reteller)
    assert (found["name"], found["queue"]) == ("train", "ai-batch")
    reteller.remember({"id": str(number), "name": "x", "queue": "y"} for number in range(KEPT))
    (found,) = told({"type": "task-succeeded", "uuid": "early"}, reteller=reteller)
    assert found["name"] is None


def test_a_worker_that_misses_its_heartbeats():
    """Silent once, by its own frequency; online when it is heard again; gone, it is not missed."""
    reteller = Reteller()
    assert told({"type": "worker-heartbeat", "freq": 10}, reteller=reteller) == []
    assert list(reteller.silent(9.0 + 31)) == []
    (silent,) = reteller.silent(9.0 + 31.5)
    assert (silent["type"], silent["worker"], silent["silent_s"]) == ("worker.silent", WORKER, 31.5)
    assert list(reteller.silent(99.0)) == []
    assert [event["type"] for event in told({"type": "worker-heartbeat"}, reteller=reteller)] == ["worker.online"]
    assert [event["type"] for event in told({"type": "worker-offline"}, reteller=reteller)] == ["worker.offline"]
    assert list(reteller.silent(999.0)) == []


def test_nobody_is_silent_because_redis_was_away():
    """Nobody could be heard."""
    reteller = Reteller()
    told({"type": "worker-heartbeat", "freq": 2}, reteller=reteller)
    reteller.forget_times(100.0)
    assert list(reteller.silent(106.0)) == []
    assert len(list(reteller.silent(108.0))) == 1


# What changed between two readings

DEVICE = DeviceView(WORKER, "A40", 40.0, 1.0, 0.0, None)
NODE = NodeView("n1", "lead", "h", "1", ONLINE, 0.0, {}, 1, 40.0, [DEVICE])
QUEUE = QueueView("ai-batch", 0.5, "background", 0, 0)
ALERT = AlertView("ERROR", "queue_long", "ai-batch", "120 wait", "add devices", 3.0)
GATE = {"queue": "ai-batch", "reason": "manual", "scope": "mesh", "since": 2.0, "by": "ann", "until": None, "why": ""}


def mesh(**different: object) -> Snapshot:
    return replace(Snapshot([NODE], [QUEUE], [], {}, at=7.0), **different)


def only(before: Snapshot, after: Snapshot) -> dict[str, object]:
    (found,) = changes(before, after)
    assert found["at"] == 7.0
    return found


def test_nothing_changed():
    """Load, waiting tasks and times are no events."""
    busy = mesh(queues=[replace(QUEUE, waiting=3)], nodes=[replace(NODE, silent_s=1.0)])
    assert changes(mesh(alerts=[ALERT]), replace(busy, alerts=[ALERT])) == []


def test_gates():
    """Paused and resumed, with who and why; a gate that is renewed is the same one."""
    closed = mesh(queues=[replace(QUEUE, gates=[GATE])])
    paused = only(mesh(), closed)
    assert (paused["type"], paused["queue"], paused["reason"], paused["by"]) == (
        *("queue.paused", "ai-batch", "manual", "ann"),
    )
    assert changes(closed, mesh(queues=[replace(QUEUE, gates=[{**GATE, "until": 9.0}])])) == []
    assert only(closed, mesh())["type"] == "queue.resumed"


def test_alerts():
    """Raised, cleared, and those that were over between two readings."""
    over = replace(ALERT, over_at=6.0)
    assert only(mesh(), mesh(alerts=[ALERT]))["type"] == "alert.raised"
    assert only(mesh(alerts=[ALERT]), mesh(alerts=[over]))["type"] == "alert.cleared"
    assert only(mesh(), mesh(alerts=[over]))["type"] == "alert.told"
    assert changes(mesh(alerts=[over]), mesh()) == []


def test_nodes_and_devices():
    """They come, go, fall ill, and are taken out of service."""
    ill = HealthView(state="degraded")
    assert only(mesh(nodes=[]), mesh())["type"] == "node.joined"
    assert only(mesh(), mesh(nodes=[]))["type"] == "node.removed"
    assert only(mesh(), mesh(nodes=[replace(NODE, status=OFFLINE)]))["type"] == "node.offline"
    assert only(mesh(nodes=[replace(NODE, status=OFFLINE)]), mesh())["type"] == "node.online"
    state = only(mesh(nodes=[replace(NODE, condition=HealthView())]), mesh(nodes=[replace(NODE, condition=ill)]))
    assert (state["type"], state["was"], state["state"]) == ("node.state", "unknown", "degraded")
    device = only(mesh(), mesh(nodes=[replace(NODE, devices=[replace(DEVICE, condition=ill)])]))
    assert (device["type"], device["worker"], device["was"]) == ("device.state", WORKER, None)
    held = mesh(nodes=[replace(NODE, devices=[replace(DEVICE, cordoned="drained by ann")])])
    assert only(mesh(), held)["why"] == "drained by ann"
    assert only(held, mesh())["type"] == "device.uncordoned"
    assert only(mesh(), mesh(endpoints={"http://e": ill}))["endpoint"] == "http://e"
