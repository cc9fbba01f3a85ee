"""Messages that no worker should meet: they end in the dead letters, with the reason, and the rest goes on."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

import pytest
from bare_workers import Mesh
from waiting import wait_for

from gpu_mesh.domain.header import wrong_header
from gpu_mesh.settings import Settings
from gpu_mesh.store import keys

LIST = "customer:6"
#: Allowed to a message; five by default.
DELIVERIES = 3


def _envelope(fleet: Mesh, mesh_header: Any = None, **replaced: Any) -> dict[str, Any]:
    """What a Celery client writes for `ledger.work`."""
    task_id = str(uuid.uuid4())
    body = [[str(fleet.ledger.path)], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    headers = {"lang": "py", "task": "ledger.work", "id": task_id, "root_id": task_id, "retries": 0}
    headers |= {"timelimit": [None, None], "argsrepr": "()", "kwargsrepr": "{}"}
    if mesh_header is not None:
        headers["mesh"] = mesh_header
    properties = {"correlation_id": task_id, "reply_to": "", "delivery_mode": 2, "priority": 6}
    properties |= {"delivery_info": {"exchange": "customer", "routing_key": "customer"}, "body_encoding": "base64"}
    properties["delivery_tag"] = str(uuid.uuid4())
    return {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": properties,
        **replaced,
    }


def _push(fleet: Mesh, *raw: str) -> None:
    with fleet.server.client() as client:
        client.lpush(LIST, *raw)


def _reasons(fleet: Mesh) -> dict[str, str]:
    """Dead letters: envelope → why."""
    letters = (entry.split("\n", 1) for entry in fleet.dead())
    return {raw: json.loads(note)["why"] for note, raw in letters}


def test_malformed_messages_are_kept_with_the_reason(survivors: Mesh):
    """DESIGN §9: no JSON, no message, no task, wrong types: each becomes a dead letter as it came."""
    whole = _envelope(survivors)
    unknown = _envelope(survivors, headers={**whole["headers"], "task": "no.such.task"})
    pickled = {**_envelope(survivors), "content-type": "application/x-python-serialize"}
    bad = [
        "not json",
        "",
        "[]",
        "null",
        "{}",
        '{"headers": {}}',
        json.dumps({**whole, "headers": None}),
        json.dumps({**whole, "properties": []}),
        json.dumps({**_envelope(survivors), "properties": {"delivery_tag": "a"}}),
        json.dumps(_envelope(survivors, body="no base64!")),
        json.dumps(_envelope(survivors, body=base64.b64encode(b"[1, 2").decode())),
        json.dumps(_envelope(survivors, headers={"id": 7, "task": ["x"]})),
        json.dumps(pickled),
        json.dumps(unknown),
        "[" * 10_000,
    ]
    _push(survivors, *bad)
    after = survivors.send(queue="customer")

    survivors.ended(after, timeout_s=8.0)
    survivors.settled()
    with survivors.server.client() as client:
        wait_for(lambda: not client.llen(LIST), "an empty list", 10.0)
    survivors.settled()

    reasons = _reasons(survivors)
    assert sorted(raw[:80] for raw in set(bad) - reasons.keys()) == []
    assert sorted(reasons) == sorted(bad)
    assert all(reasons.values())


@pytest.mark.parametrize(
    "header",
    [
        pytest.param([], id="an empty list"),
        pytest.param(["revenue"], id="a list"),
        pytest.param("revenue", id="a text"),
        pytest.param({"needs": [1]}, id="needs are a list"),
        pytest.param({"needs": {"memory_gb": "NaN"}}, id="memory is a text"),
        pytest.param({"needs": {"memory_gb": float("nan")}}, id="memory is no number"),
        pytest.param({"needs": {"memory_gb": 10**400}}, id="memory is huge"),
        pytest.param({"needs": {"memory_gb": -1, "gpu_count": 2.5}}, id="less than nothing"),
        pytest.param({"needs": {"labels": {"a": {"b": "}{"}}}, "priority": 10**30}, id="braces in labels"),
        pytest.param({"needs": {"a\tb\nc|d": "e\tf"}, "class": None, "sent_at": "yesterday"}, id="separators"),
        pytest.param({"needs": {}, "priority": "high", "class": 3, "sent_at": -1e300}, id="wrong types"),
    ],
)
def test_hostile_headers_stop_nobody(survivors: Mesh, header: Any):
    """Issue 3: a hostile `mesh` header: the task is run or kept, and the next one runs."""
    envelope = _envelope(survivors, header)
    task, raw = envelope["headers"]["id"], json.dumps(envelope)
    _push(survivors, raw)
    survivors.ended(survivors.send(queue="customer"), timeout_s=8.0)

    if (why := wrong_header(header)) is not None:
        wait_for(lambda: _reasons(survivors).get(raw) == why, "the message kept with the reason", 10.0)
        assert not survivors.ledger.starts(task)
    else:
        wait_for(lambda: _was_run(survivors, task) or raw in _reasons(survivors), "the task run or kept", 10.0)
    survivors.settled()


def _was_run(fleet: Mesh, task: str) -> bool:
    """Whether a worker took it up, be it to fail it."""
    with fleet.server.client() as client:
        failed = client.exists(f"celery-task-meta-{task}")
    return bool(failed) or fleet.ledger.ends()[task] == 1


def test_what_no_device_can_run_blocks_nobody(survivors: Mesh):
    """DESIGN §9: 10 000 messages of the best class that fit nowhere, 500 kinds of them: the one behind them runs."""
    raws = []
    for number in range(10_000):
        envelope = _envelope(survivors, {"needs": {"memory_gb": 80 + number % 500}, "priority": 5})
        envelope["properties"]["delivery_tag"] = f"misfit-{number}"
        raws.append(json.dumps(envelope))
    with survivors.server.client() as client:
        client.lpush("revenue:6", *raws)
        try:
            survivors.ended(survivors.send(queue="revenue"), survivors.send(queue="ai-batch"))
            assert client.llen("revenue:6") == len(raws)
        finally:
            client.delete("revenue:6")
    survivors.ended(survivors.send(queue="revenue"))
    survivors.settled()
    assert not any("misfit" in letter for letter in survivors.dead())


def test_poison_is_dead_after_its_deliveries(fleet: Mesh):
    """DESIGN §9: a task that kills its worker each time: dead after as many as are allowed, the tasks behind it run."""
    poison = str(fleet.app.send_task("ledger.poison", [str(fleet.ledger.path)], queue="revenue").id)
    rest = [fleet.send(queue="internal") for _ in range(5)]
    assert Settings().max_deliveries == 5
    worker = fleet.worker("n1", GPU_MESH_MAX_DELIVERIES=str(DELIVERIES))
    for death in range(1, DELIVERIES + 1):
        worker.start(wait=False)
        fleet.started(poison, death)
        wait_for(lambda: not worker.alive(), f"death {death}")
    worker.start(wait=False)

    fleet.ended(*rest)
    fleet.settled()
    assert len(fleet.ledger.starts(poison)) == DELIVERIES
    [letter] = [json.loads(entry.split("\n", 1)[0]) for entry in fleet.dead()]
    assert letter["id"] == poison
    assert letter["deliveries"] == DELIVERIES
    assert letter["why"]
    with fleet.server.client() as client:
        assert client.hlen(f"{keys.PREFIX}again") == 0
