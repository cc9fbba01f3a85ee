"""What each script's header promises (DESIGN §5, §6, §9)."""

from __future__ import annotations

import json

import pytest
import redis
from claiming import MAX_DELIVERIES, Device, envelope, new_tag, publish, tags_in, waiting

from gpu_mesh.domain.queues import Band
from gpu_mesh.store import claims

MISFITS = 10_000


@pytest.fixture
def device(client: redis.Redis) -> Device:
    """One with a lease."""
    return Device(client, max_gb=24).start()


def send(client: redis.Redis, queue: str = "internal", **needs: object) -> str:
    """One of ours; returns its tag."""
    tag = new_tag()
    publish(client, queue, Band.NORMAL, needs, tag)
    return tag


def dead(client: redis.Redis) -> list[dict]:
    """What is said of each dead letter."""
    return [json.loads(raw.partition("\n")[0]) for raw in client.lrange("gpumesh:dead", 0, -1)]


def test_a_lost_reply_is_given_again(client, device):
    """§5.1: the claim it does not name is handed out again, and counted once."""
    tag = send(client)
    first = device.claim()
    device.held.clear()
    again = device.claim()
    assert (first.tag, again.tag, first.deliveries, again.deliveries) == (tag, tag, 1, 1)
    assert again.envelope == first.envelope


def test_no_claim_without_lease_or_when_cordoned(client, device):
    tag = send(client)
    assert Device(client, "gpu1@node").claim() == claims.Refused("lease")
    for name in ("node", "gpu0@node"):
        client.hset("gpumesh:cordon", name, "drained")
        assert device.claim() == claims.Refused("drained")
        client.delete("gpumesh:cordon")
    assert device.claim().tag == tag


def test_a_refused_device_is_not_woken(client, device):
    assert device.claim() is None
    client.hset("gpumesh:cordon", "node", "drained")
    device.claim()
    assert client.zcard("gpumesh:idle") == 0


def test_a_gate_of_one_device_closes_no_other(client, device):
    """R3: scopes are mesh, node and device."""
    tag = send(client, "ai-batch")
    client.hset("gpumesh:gates", "ai-batch|health@gpu0@node", "{}")
    assert device.claim() is None
    assert Device(client, "gpu1@node").start().claim().tag == tag


def test_requeue_keeps_age_and_counts(client, device):
    tag = send(client)
    first = device.claim()
    send(client)
    for counted, deliveries in ((False, 1), (True, 2), (True, 3)):
        device.held.clear()
        assert claims.hand_back(client, device.worker, tag, counts=counted, max_deliveries=MAX_DELIVERIES)
        again = device.claim()
        assert (again.tag, again.at, again.deliveries) == (tag, first.at, deliveries)
    device.held.clear()
    assert claims.hand_back(client, device.worker, tag, counts=True, max_deliveries=MAX_DELIVERIES)
    assert dead(client)[0]["why"] == "deliveries"
    assert tags_in(client.lrange("gpumesh:dead", 0, -1)) == [tag]


def test_late_calls_change_nothing(client, device):
    tag = send(client)
    device.claim()
    claims.reap(client, worker=device.worker, max_deliveries=MAX_DELIVERIES)
    assert not claims.ack(client, device.worker, tag)
    assert not claims.bury(client, device.worker, tag, why="late")
    assert not claims.hand_back(client, device.worker, tag, counts=True, max_deliveries=MAX_DELIVERIES)
    assert waiting(client) == [tag]


def test_reap_takes_from_whom_the_lease_ended(client, device):
    """F1."""
    tag = send(client)
    device.claim()
    assert claims.reap(client, max_deliveries=MAX_DELIVERIES) == []
    client.zadd("gpumesh:leases", {device.worker: 1})
    assert claims.reap(client, max_deliveries=MAX_DELIVERIES) == [claims.Reaped(device.worker, tag, "requeued")]
    other = Device(client, "gpu1@node").start().claim()
    assert (other.tag, other.deliveries) == (tag, 2)
    assert not claims.renew(client, device.worker, 10)


def test_a_redis_that_was_away_reaps_nobody(client, device):
    """§6: after a gap in all renewals every lease gets one more TTL."""
    tag = send(client)
    device.claim()
    client.zadd("gpumesh:leases", {device.worker: 1})
    client.set("gpumesh:renewed", "1")
    assert claims.renew(client, "gpu1@node", 10, anew=True)
    assert claims.reap(client, max_deliveries=MAX_DELIVERIES) == []
    assert claims.renew(client, device.worker, 10)
    client.set("gpumesh:grace", "1")
    assert claims.reap(client, max_deliveries=MAX_DELIVERIES) == []
    assert claims.holds(client, device.worker, tag)


def test_publish_wakes_the_best_idle_worker_alone(client):
    """P2: the best score among those idle."""
    devices = [Device(client, f"gpu{i}@node").start() for i in range(300)]
    for device in devices:
        assert device.claim() is None
    first = devices[0].worker
    tag = new_tag()
    assert publish(client, "internal", Band.NORMAL, {}, tag) == first  # nobody judged yet: who is idle longest
    woken = client.keys("gpumesh:wake:*")
    assert sorted(woken) == [f"gpumesh:wake:gpu{i}@node" for i in range(4)]
    client.delete(*woken)
    devices[0].claim()
    for i, device in enumerate(devices):
        claims.rank(client, device.worker, "1", {"normal": i / 300})
    assert publish(client, "internal", Band.NORMAL, {}, new_tag()) == "gpu299@node"
    assert sorted(client.keys("gpumesh:wake:*")) == ["gpumesh:wake:gpu299@node"]
    client.zremrangebyrank("gpumesh:idle", 0, -1)
    client.zadd("gpumesh:idle", {"gpu7@node": 1})
    assert publish(client, "internal", Band.NORMAL, {}, new_tag()) == "gpu7@node"
    assert publish(client, "internal", Band.NORMAL, {}, new_tag()) == ""


def test_publish_wakes_who_has_not_judged_while_the_others_work(client):
    """S4: no idle device while fitting work waits: one that never met these needs is woken to judge them."""
    busy, fresh = Device(client, "gpu0@node").start(), Device(client, "gpu1@node").start()
    assert fresh.claim() is None
    claims.rank(client, busy.worker, "1", {"normal": 1.0})
    assert publish(client, "internal", Band.NORMAL, {}, new_tag()) == fresh.worker


def test_a_full_redis_refuses_publishing_and_lets_work_finish(client, device):
    """§9: full memory."""
    tags = [send(client) for _ in range(3)]
    device.claim()
    client.config_set("maxmemory", 1)
    before = {key: client.dump(key) for key in client.scan_iter()}
    with pytest.raises(redis.ResponseError, match="OOM"):
        send(client)
    assert {key: client.dump(key) for key in client.scan_iter()} == before
    assert device.ack(tags[0])
    assert device.claim().tag == tags[1]
    assert claims.renew(client, device.worker, 60)
    assert len(claims.reap(client, worker=device.worker, max_deliveries=MAX_DELIVERIES)) == 1
    device.start().held.clear()
    assert device.drain() == tags[1:]


@pytest.mark.parametrize(
    "raw",
    ["", "{", "null", "[]", "3", '"x"', "{}", '{"headers": {}, "properties": []}', "\x00\xff", "[" * 5000]
    + [envelope(tag) for tag in ("", "a b", "a\tb", "a\nb", 'a"b', "x" * 500)],
)
def test_what_is_no_message_goes_to_the_dead_letters(client, device, raw):
    client.lpush("internal", raw)
    tag = send(client)
    assert device.drain() == [tag]
    assert [letter["why"] for letter in dead(client)] == ["malformed"]
    assert client.lrange("gpumesh:dead", 0, -1)[0].partition("\n")[2] == raw


HOSTILE = [1, "x", [], None, {}, {"needs": []}, {"needs": [1, 2]}, {"needs": "all"}, {"needs": {"memory_gb": []}}]
HOSTILE += [{"needs": {"memory_gb": number}} for number in (float("nan"), float("inf"), 1e308, -1, "8")]
HOSTILE += [{"needs": {"labels": {"a": text}}} for text in ("}", "{", '"', '\\"}', "\t\n|,", "x" * 1_000_000)]
HOSTILE += [{"needs": {"a": {"b": {"c": [{}]}}}}, {"priority": "x", "needs": {}}]


@pytest.mark.parametrize("mesh", HOSTILE, ids=lambda mesh: repr(mesh)[:40])
def test_a_hostile_header_breaks_no_claim(client, device, mesh):
    tag = new_tag()
    client.lpush("internal", envelope(tag, mesh=mesh))
    other = send(client)
    claimed = device.drain()
    assert other in claimed
    assert sorted(claimed + waiting(client)) == sorted([tag, other])
    assert dead(client) == []


def test_needs_are_judged_as_their_sender_wrote_them(client, device):
    """P1: braces in a label hide no label."""
    needs = {"labels": {"a": "}", "trust": "owned"}, "memory_gb": 0.1}
    client.lpush("internal", envelope(new_tag(), mesh={"needs": needs}))
    reply = device.ask()
    assert [json.loads(text) for text in reply.needs.values()] == [needs]


def test_a_copy_of_what_is_held_is_kept_apart(client, device):
    tag = new_tag()
    client.lpush("internal", envelope(tag), envelope(tag))
    device.claim()
    assert device.claim() is None
    assert [letter["why"] for letter in dead(client)] == ["duplicate"]
    assert claims.holds(client, device.worker, tag)


def test_scripts_come_back_after_a_flush(client, device):
    tag = send(client)
    client.script_flush()
    assert device.claim().tag == tag
    client.script_flush()
    assert device.ack(tag)


def test_what_fits_is_claimed_behind_many_misfits(client, device):
    """§9: 10 000 messages that no device can run block nobody, and the index stays right."""
    pipe = client.pipeline(transaction=False)
    for _ in range(MISFITS):
        pipe.lpush("revenue", envelope(new_tag(), mesh={"needs": {"memory_gb": 80}}))
    pipe.execute()
    tags = [send(client, memory_gb=8) for _ in range(3)] + [send(client, "ai-batch")]
    assert device.drain() == tags
    assert client.llen("revenue") == MISFITS


def test_a_long_body_is_not_read_at_each_claim(client, device):
    """§5: what heads the list costs a claim of another message nothing."""
    publish(client, "internal", Band.NORMAL, {"memory_gb": 80}, new_tag(), body="x" * 1_000_000)
    tags = [send(client) for _ in range(200)]
    device.claim()
    device.ack(tags[0])
    client.config_resetstat()
    assert device.drain() == tags[1:]
    assert client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"] < 2_000
