"""Internal work and usage: `services.usage.tick`, driven by hand (SPEC Q3; DESIGN §7)."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import redis
from click.testing import CliRunner
from sample_tasks import add

from gpu_mesh.celery import app
from gpu_mesh.cli.root import root
from gpu_mesh.domain.usage import LEAST_S, Usage
from gpu_mesh.services import usage, windows
from gpu_mesh.settings import Settings, settings
from gpu_mesh.store import gates, keys, leases, server
from gpu_mesh.store import windows as store
from gpu_mesh.store.client import connect

PEAK = store.Plan("00:00-24:00", "UTC", "lead")
OFF_PEAK = store.Plan("none", "UTC", "lead")


@pytest.fixture
def client(broker: str) -> Iterator[redis.Redis]:
    """Four devices in peak hours, none of them busy."""
    with connect(settings()) as found:
        store.set_plan(found, PEAK)
        for number in range(4):
            leases.renew(found, f"gpu{number}@n1", 3600.0, anew=True)
        leases.renew(found, "control@n1", 3600.0, anew=True)
        yield found


def work(client: redis.Redis, number: int, queue: str = "customer:3", siblings: str = "") -> None:
    """A job of the queue runs on that device."""
    record = "\t".join([queue, "1", "0", "1", "1", "normal", "1", "", "id"])
    more = {"+tag": siblings} if siblings else {}
    client.hset(keys.claims(f"gpu{number}@n1"), mapping={"tag": record, "=tag": "envelope", **more})


def closed(client: redis.Redis) -> list[tuple[str, str]]:
    return [(gate.queue, gate.reason) for gate in gates.all_gates(client)]


def test_who_is_busy(client: redis.Redis):
    """Q3: devices with interactive work, siblings with them; not background work, CPU workers or the dead."""
    work(client, 0, "revenue", siblings="gpu1@n1")
    work(client, 2, "internal:6")
    client.hset(keys.claims("control@n1"), "tag", "\t".join(["customer", "1", "0", "1", "1", "normal", "1", "", "id"]))
    work(client, 9)
    assert usage.measured(client) == Usage(2, 4)


def test_a_day_of_high_usage(client: redis.Redis, caplog: pytest.LogCaptureFixture):
    """Q3: closed above the limit, open again in low usage, after a minute at least; the log says why."""
    caplog.set_level(logging.INFO)
    now = server.now(client)
    for number in range(2):
        work(client, number, "ai-realtime:6")
    usage.tick(client, settings(), now)
    assert closed(client) == []
    work(client, 2)
    usage.tick(client, settings(), now + 10)
    assert closed(client) == [("internal", "usage")]
    assert "internal closes: 3 of 4 devices do interactive work" in caplog.text
    client.delete(*(keys.claims(f"gpu{number}@n1") for number in range(1, 3)))
    usage.tick(client, settings(), now + 20)
    assert closed(client) == [("internal", "usage")]
    usage.tick(client, settings(), now + 10 + LEAST_S)
    assert closed(client) == []
    assert "internal opens: 1 of 4" in caplog.text


def test_off_peak_it_opens_at_once(client: redis.Redis):
    """Q3: nights are times of low usage, whatever runs; other settings of the lead hold too."""
    now = server.now(client)
    for number in range(4):
        work(client, number)
    usage.tick(client, Settings(usage_share=1), now)
    assert closed(client) == []
    usage.tick(client, settings(), now)
    assert closed(client) == [("internal", "usage")]
    store.set_plan(client, OFF_PEAK)
    usage.tick(client, settings(), now + 1)
    assert closed(client) == []


def test_a_gate_that_nobody_renews_ends(client: redis.Redis):
    """DESIGN §9: the control worker is dead; whoever tends the leases opens it."""
    now = server.now(client)
    for number in range(4):
        work(client, number)
    usage.tick(client, settings(), now)
    usage.tick(client, settings(), now + usage.HOLD_S / 2)
    windows.tick(client, settings(), now + usage.HOLD_S)
    assert ("internal", "usage") in closed(client)
    windows.tick(client, settings(), now + 2 * usage.HOLD_S)
    assert ("internal", "usage") not in closed(client)


def test_it_is_shown(client: redis.Redis, caplog: pytest.LogCaptureFixture):
    """Issue 5 §4: `gpu-mesh queues`, and a warning to whoever sends, once."""
    for number in range(4):
        work(client, number)
    usage.tick(client, settings(), server.now(client))
    told = json.loads(CliRunner().invoke(root, ["queues", "--json"]).stdout)
    (found,) = (queue["closed"] for queue in told if queue["name"] == "internal")
    assert found.startswith("usage since ")
    assert found.endswith("(more than 50% of the devices did interactive work)")
    assert "until" not in found
    app.__dict__.pop("_notices", None)
    for _ in range(2):
        app._checked_at = float("-inf")
        add.delay(1, 1)
    (warned,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warned.startswith("internal: usage since")
    assert warned.endswith("what is sent waits")
