"""The fleet's rules on a real Redis: each with its fault and its recovery, `services.fleet.tick` driven by hand
(SPEC H7; DESIGN §9)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis_servers import RedisServer, running
from sample_tasks import add

from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.domain.health import Health
from gpu_mesh.services import fleet
from gpu_mesh.settings import Settings, settings
from gpu_mesh.store import alerts as store
from gpu_mesh.store import availability, gates, health, keys, nodes, outbox, server
from gpu_mesh.store.client import connect
from gpu_mesh.tasks import control

pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")


@pytest.fixture
def client(broker: str) -> Iterator[redis.Redis]:
    with connect(settings()) as found:
        outbox.announce(found)
        yield found


def judged(client: redis.Redis, **given: object) -> dict[tuple[str, str], str]:
    """What stands after a tick, by rule and subject."""
    fleet.tick(client, Settings(**given) if given else settings(), server.now(client))
    return {(one.rule, one.subject): one.text for one in store.standing(client)}


def told(client: redis.Redis) -> list[tuple[str, str]]:
    return [(one.kind, one.rule) for one in outbox.pending(client)]


def join(client: redis.Redis, name: str = "n1") -> None:
    device = Device(name="gpu0", node=name, kind=DeviceKind.FAKE, gpu_type="A40", memory_gb=40.0)
    node = nodes.Node(name=name, role="compute", host="h", version="0", devices=(device,))
    nodes.register(client, node, instance="i", ttl_s=60)


def silence(client: redis.Redis, name: str = "n1", by_s: float = 60.0) -> None:
    held = json.loads(str(client.hget(keys.NODES, name)))
    client.hset(keys.NODES, name, json.dumps({**held, "seen_at": held["seen_at"] - by_s}))


def test_a_sound_mesh_has_no_alert(client: redis.Redis):
    """By the task of the checks, as it runs."""
    join(client)
    control.health.run()
    assert judged(client) == {}


def test_a_node_that_says_nothing(client: redis.Redis):
    """H7: within NODE_TTL_S; back, forgotten, or gone in order it is over. Each tick posts it, it is told once."""
    join(client)
    silence(client)
    assert judged(client)["disconnected", "n1"].startswith("not heard of for 60 s")
    judged(client)
    join(client)
    assert judged(client) == {}
    assert told(client) == [("raised", "disconnected"), ("over", "disconnected")]
    assert outbox.pending(client)[-1].text.endswith(": it is here again")
    silence(client)
    assert judged(client)
    client.hdel(keys.NODES, "n1")
    assert judged(client) == {}
    assert outbox.pending(client)[-1].text.endswith(": it was forgotten")
    join(client)
    nodes.leave(client, "n1", instance="i")
    silence(client)
    assert judged(client) == {}


def test_a_redis_that_was_away_hides_no_node_and_finds_none(client: redis.Redis):
    """DESIGN §6: nobody could be heard; nodes have time to come back, and what stood stands."""
    join(client, "n1")
    join(client, "n2")
    silence(client, "n1")
    assert judged(client).keys() == {("disconnected", "n1")}
    silence(client, "n2")
    client.set(keys.GRACE, round(server.now(client) * 1e6))
    assert judged(client).keys() == {("disconnected", "n1")}
    client.set(keys.GRACE, round((server.now(client) - 60) * 1e6))
    assert judged(client).keys() == {("disconnected", "n1"), ("disconnected", "n2")}


def test_many_tasks_fail(client: redis.Redis):
    """H7: those of ten minutes, whatever was before; cancelled ones do not count."""
    now = server.now(client)

    def ended(outcome: str, ago_s: float, count: int) -> None:
        record = "\t".join(["customer", "1", "0", "1", "1", "normal", "1", "", "id"])
        client.rpush(keys.ENDED, *[f"{now - ago_s:.0f}\t{outcome}\tgpu0@n1\t5\t\t\t{record}"] * count)
        if outcome == "failure":
            entry = {"name": "shop.answer", "state": "FAILURE", "started_at": now - ago_s - 5, "ran_s": 5.0}
            client.lpush(keys.FINISHED, *[json.dumps(entry)] * count)

    ended("failure", 800, 500)
    ended("success", 300, 300)
    ended("failure", 200, 15)
    assert judged(client) == {}, "15 of 315, the 500 are too old"
    ended("failure", 100, 15)
    assert judged(client)["failures", "mesh"].startswith("30 of 330 tasks failed in 10 min (9%): 30 × shop.answer")
    ended("success", 1, 500)
    ended("revoked", 1, 100)
    assert judged(client) == {}


def test_a_queue_is_long(client: redis.Redis):
    """H7: 100, `ai-batch` 1000; why it is closed."""
    client.lpush("customer:6", *(["x"] * 60))
    client.lpush("customer", *(["x"] * 41))
    client.lpush("ai-batch:6", *(["x"] * 900))
    client.lpush("rfa-reminders", *(["x"] * 101))
    gates.close(client, "customer", "manual", by="ann")
    found = judged(client)
    assert found.keys() == {("backlog", "customer"), ("backlog", "rfa-reminders")}
    assert "101 tasks wait, more than 100; it is closed: customer: paused by ann" in found["backlog", "customer"]
    client.ltrim("customer", 0, 20)
    assert ("backlog", "customer") in judged(client), "81: not over yet"
    client.delete("customer", "customer:6", "rfa-reminders")
    assert judged(client) == {}
    assert ("backlog", "ai-batch") in judged(client, alert_batch_backlog=800)


def test_a_gpu_is_full(client: redis.Redis):
    """H7: as its worker reports; not of one that is silent."""

    def report(used: object, response_ms: float | None = 3.0, name: str = "gpu0@n1") -> None:
        body = {"device": {"memory_used_gb": used, "memory_total_gb": 24.0}}
        health.keep(client, [health.Checked(f"device:{name}", Health(), response_ms=response_ms, report=body)])

    report(23.0)
    report(None, name="gpu1@n1")
    health.keep(client, [health.Checked("device:cpu@n1", Health(), response_ms=1.0, report={"device": None})])
    assert judged(client)["memory", "gpu0@n1"] == "23.0 of 24.0 GB of GPU memory in use (96%)"
    report(12.0)
    assert judged(client) == {}
    report(23.0, response_ms=None)
    assert judged(client) == {}


def test_new_dead_letters(client: redis.Redis):
    """DESIGN §9: the count and why. What nobody decides on is no news after an hour."""
    now = server.now(client)

    def bury(at: float, why: str = "malformed", body: str = "x") -> None:
        client.lpush(keys.DEAD, json.dumps({"list": "customer:3", "why": why, "at": at}) + f"\n{body}")

    bury(now - 4000)
    assert judged(client) == {}
    client.lpush(keys.DEAD, "no JSON\nx")
    bury(now - 60, body="y" * 1_000_000)
    bury(now - 1, "killed its worker 5 times")
    text = judged(client)["dead", "customer"]
    assert text.startswith("2 new dead letters within an hour: ")
    assert "1 × killed its worker 5 times" in text
    assert text.endswith("4 in all queues")
    client.delete(keys.DEAD)
    assert judged(client) == {}
    assert told(client) == [("raised", "dead"), ("over", "dead")]


def test_tasks_that_no_device_can_run(client: redis.Redis):
    """DESIGN §9: 10 000 of them cost a look at their needs, not at each; not before a minute."""
    join(client)
    for _ in range(3):
        add.apply_async((1, 1), queue="ai-batch", memory_gb=80)
    add.apply_async((1, 1), queue="ai-batch", memory_gb=8)
    add.apply_async((1, 1), queue="customer", labels={"site": "mars"})
    assert judged(client) == {}
    age(client, 61.0)
    (group,) = [key for key in client.scan_iter(f"{keys.PREFIX}group:*|ai-batch:6") if client.zcard(key) == 3]
    at = client.zrange(group, 0, 0, withscores=True)[0][1]
    client.zadd(group, {f"x{number} {at:.0f} 0 0 tag{number} id": at for number in range(9_997)})
    client.config_resetstat()
    found = judged(client)
    assert found["unschedulable", "ai-batch"].startswith("10000 tasks that no device online can run: 10000 × ")
    assert "80" in found["unschedulable", "ai-batch"]
    assert "customer" in {subject for _, subject in found}
    commands = client.info("commandstats")
    assert "cmdstat_lrange" not in commands or commands["cmdstat_lrange"]["usec"] < 20_000
    assert commands["cmdstat_evalsha"]["usec_per_call"] < 20_000
    client.delete(*client.scan_iter(f"{keys.PREFIX}class*"))
    assert judged(client) == {}


def age(client: redis.Redis, by_s: float) -> None:
    """As if all that waits had waited for so long."""
    for key in client.scan_iter(f"{keys.PREFIX}class:*"):
        for group, at in client.zrange(key, 0, -1, withscores=True):
            client.zadd(key, {group: at - by_s * 1e6})


def test_realtime_work_is_refused(client: redis.Redis):
    """R4: CRITICAL, until it is taken again."""
    availability.tell(client, availability.Outage(server.now(client), "no device is there"), 60)
    assert judged(client)["realtime", "ai-realtime"] == "tasks are refused: no device is there"
    availability.back(client)
    assert judged(client) == {}


def test_redis_is_nearly_full(tmp_path: Path):
    """DESIGN §9: told before it is full, while it can still be written."""
    with running(RedisServer(tmp_path, "maxmemory 12mb")) as own, own.client() as client:
        current = Settings(broker_url=own.url)
        outbox.announce(client)
        fleet.tick(client, current, server.now(client))
        assert store.standing(client) == []
        # Its scripts and buffers are counted too.
        while (seen := client.info("memory"))["used_memory"] < 0.91 * seen["maxmemory"]:
            client.rpush("filler", "x" * 100_000)
        fleet.tick(client, current, server.now(client))
        (held,) = store.standing(client)
        assert (held.rule, held.subject) == ("redis", "redis")
        assert "of 12 MB" in held.text or "of 13 MB" in held.text
        client.delete("filler")
        fleet.tick(client, current, server.now(client))
        assert store.standing(client) == []


def test_a_redis_without_a_limit(client: redis.Redis):
    """The embedded one: judged by what its machine has."""
    assert int(client.info("memory")["maxmemory"]) == 0
    assert ("redis", "redis") not in judged(client)


def test_one_rule_that_cannot_be_judged_keeps_the_others(client: redis.Redis, caplog: pytest.LogCaptureFixture):
    """A stranger's key."""
    join(client)
    silence(client)
    client.set(keys.DEAD, "no list")
    assert judged(client).keys() == {("disconnected", "n1")}
    assert "rule dead cannot be judged" in caplog.text
