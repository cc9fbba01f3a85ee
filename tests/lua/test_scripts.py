"""What each script's header promises (DESIGN §5, §6, §9)."""

from __future__ import annotations

import json

import pytest
import redis
from claiming import MAX_DELIVERIES, Device, envelope, new_tag, publish, send, tags_in, waiting

from gpu_mesh.domain.header import wrong_header
from gpu_mesh.domain.queues import Band
from gpu_mesh.store import claims, cordons, gates, leases, ranking
from gpu_mesh.store.scripts import script

MISFITS = 10_000


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
        cordons.cordon(client, name, "drain", why="drained")
        assert device.claim() == claims.Refused("drained")
        cordons.lift(client, name, "drain")
    assert device.claim().tag == tag


def test_a_refused_device_is_not_woken(client, device):
    assert device.claim() is None
    cordons.cordon(client, "node", "drain", why="drained")
    device.claim()
    assert client.keys("gpumesh:idle:*") == []


def test_a_gate_of_one_device_closes_no_other(client, device):
    """R3: scopes are mesh, node and device."""
    tag = send(client, "ai-batch")
    assert gates.close(client, "ai-batch", "health", scope="gpu0@node")
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
    leases.reap(client, worker=device.worker, max_deliveries=MAX_DELIVERIES)
    assert not claims.ack(client, device.worker, tag)
    assert not claims.bury(client, device.worker, tag, why="late")
    assert not claims.hand_back(client, device.worker, tag, counts=True, max_deliveries=MAX_DELIVERIES)
    assert waiting(client) == [tag]


def test_reap_takes_from_whom_the_lease_ended(client, device):
    """F1."""
    tag = send(client)
    device.claim()
    assert leases.reap(client, max_deliveries=MAX_DELIVERIES) == []
    client.zadd("gpumesh:leases", {device.worker: 1})
    assert leases.reap(client, max_deliveries=MAX_DELIVERIES) == [leases.Reaped(device.worker, tag, "requeued")]
    other = Device(client, "gpu1@node").start().claim()
    assert (other.tag, other.deliveries) == (tag, 2)
    assert not leases.renew(client, device.worker, 10)


def test_a_redis_that_was_away_reaps_nobody(client, device):
    """§6: after a gap in all renewals every lease gets one more TTL."""
    tag = send(client)
    device.claim()
    client.zadd("gpumesh:leases", {device.worker: 1})
    client.set("gpumesh:renewed", "1")
    assert leases.renew(client, "gpu1@node", 10, anew=True)
    assert leases.reap(client, max_deliveries=MAX_DELIVERIES) == []
    assert leases.renew(client, device.worker, 10)
    client.set("gpumesh:grace", "1")
    assert leases.reap(client, max_deliveries=MAX_DELIVERIES) == []
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
        ranking.rank(client, device.worker, "1", {"normal": i / 300})
    assert publish(client, "internal", Band.NORMAL, {}, new_tag()) == "gpu299@node"
    assert sorted(client.keys("gpumesh:wake:*")) == ["gpumesh:wake:gpu299@node"]
    client.zremrangebyrank("gpumesh:idle:internal", 0, -1)
    client.zadd("gpumesh:idle:internal", {"gpu7@node": 1})
    assert publish(client, "internal", Band.NORMAL, {}, new_tag()) == "gpu7@node"
    assert publish(client, "internal", Band.NORMAL, {}, new_tag()) == ""


def test_publish_wakes_who_has_not_judged_while_the_others_work(client):
    """S4: no idle device while fitting work waits: one that never met these needs is woken to judge them."""
    busy, fresh = Device(client, "gpu0@node").start(), Device(client, "gpu1@node").start()
    assert fresh.claim() is None
    ranking.rank(client, busy.worker, "1", {"normal": 1.0})
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
    assert leases.renew(client, device.worker, 60)
    assert len(leases.reap(client, worker=device.worker, max_deliveries=MAX_DELIVERIES)) == 1
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


NO_OBJECTS = [1, "x", True, False, "", 0, [1], [{}], [None]]
WRONG_HEADERS = NO_OBJECTS + [{"needs": needs} for needs in NO_OBJECTS]


@pytest.mark.parametrize("mesh", WRONG_HEADERS, ids=repr)
@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
def test_a_header_that_is_no_object_is_malformed(client, device, mesh, long):
    """§5: it might have meant needs; script and model (domain/header.py) give the same reason."""
    client.lpush("internal", raw := envelope(wrong := new_tag(), mesh=mesh, body="x" * 20_000 if long else "W10="))
    tag = send(client)
    assert device.drain() == [tag]
    [letter] = dead(client)
    assert (letter["why"], letter["id"]) == (wrong_header(mesh), wrong)
    assert client.lrange("gpumesh:dead", 0, -1)[0].partition("\n")[2] == raw
    assert client.keys("gpumesh:group:*") == []


@pytest.mark.parametrize("mesh", [None, [], {}, {"needs": None}, {"needs": []}, {"needs": {}}], ids=repr)
def test_a_header_that_says_nothing_needs_nothing(client, device, mesh):
    """§4: as of a stock producer, which writes none."""
    raw = envelope(tag := new_tag(), mesh={})
    client.lpush("internal", raw.replace('"mesh": {}', f'"mesh": {json.dumps(mesh)}'))
    assert device.drain() == [tag]
    assert wrong_header(mesh) is None


HOSTILE: list[object] = [{"needs": {"memory_gb": []}}]
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
    device.look = "1"
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


class FlushedAgain(redis.Redis):
    """Whose scripts are flushed as soon as one is loaded."""

    def script_load(self, *args):
        loaded = super().script_load(*args)
        self.script_flush()
        return loaded


def test_a_flush_between_load_and_call(server, device):
    """Found by a flush under load: the worker ended of the second NOSCRIPT."""
    with FlushedAgain(connection_pool=device.client.connection_pool) as client:
        tag = send(device.client)
        assert device.claim().tag == tag
        client.script_flush()
        assert claims.ack(client, device.worker, tag)


def test_what_fits_is_claimed_behind_many_misfits(client, device):
    """§9: 10 000 messages that no device can run block nobody, and the index stays right."""
    pipe = client.pipeline(transaction=False)
    for _ in range(MISFITS):
        pipe.lpush("revenue", envelope(new_tag(), mesh={"needs": {"memory_gb": 80}}))
    pipe.execute()
    tags = [send(client, memory_gb=8) for _ in range(3)] + [send(client, "ai-batch")]
    assert device.drain() == tags
    assert client.llen("revenue") == MISFITS


def test_a_big_message_is_not_moved_at_each_claim(client, device):
    """§5: one that no device fits lies at the list's old end; those behind it cost what they cost without it."""
    big = new_tag()
    publish(client, "internal", Band.NORMAL, {"memory_gb": 80}, big, body="x" * 1_000_000)
    tags = [send(client) for _ in range(50)]
    with client.monitor() as seen:
        assert device.drain() == tags
        client.set("done", 1)
        moved = 0
        for command in seen.listen():
            moved += len(command["command"]) > 500_000
            if command["command"].startswith("SET done"):
                break
    assert moved == 0
    assert waiting(client) == [big]
    assert Device(client, "gpu1@node").start().claim().tag == big


def test_needs_nobody_has_are_forgotten(client, device):
    """Those that wait or run keep their numbers; the others make room, rankings included."""
    waits, runs, gone = ({"memory_gb": gb} for gb in (2, 4, 8))
    for needs in (runs, gone):
        publish(client, "customer", Band.NORMAL, needs, new_tag())
    held = device.claim()
    ended = device.claim()
    ranking.rank(client, device.worker, ended.needs, {"normal": 1.0})
    device.ack(ended.tag)
    publish(client, "internal", Band.NORMAL, waits, new_tag())
    assert ranking.prune_needs(client) == 1
    kept = {text for field, text in client.hgetall("gpumesh:needs").items() if field.isdigit()}
    assert kept == {json.dumps(needs) for needs in (runs, waits)}
    assert client.keys("gpumesh:fit:*") == []
    claims.hand_back(client, device.worker, held.tag, counts=False, max_deliveries=MAX_DELIVERIES)
    device.held.clear()
    assert device.claim().needs == held.needs


def test_what_is_taken_back_leaves_the_others_their_ages(client, device):
    """A task cancelled in the middle of its list: the index stays right."""
    tags = [send(client, "ai-batch") for _ in range(5)]
    ages = {claimed.tag: claimed.at for claimed in [device.claim()]}
    client.lpush("ai-batch:6", envelope(foreign := new_tag()))
    (raw,) = [raw for raw in client.lrange("ai-batch:6", 0, -1) if tags[2] in raw]
    assert script(client, "remove")(args=["ai-batch:6", raw])
    assert not script(client, "remove")(args=["ai-batch:6", raw])
    (raw,) = [raw for raw in client.lrange("ai-batch:6", 0, -1) if foreign in raw]
    assert script(client, "remove")(args=["ai-batch:6", raw])  # not indexed yet
    client.config_resetstat()
    assert device.drain() == [tags[1], tags[3], tags[4]]
    assert list(ages) == tags[:1]
    assert "cmdstat_unlink" not in client.info("commandstats")  # nothing was indexed anew


def test_a_stock_worker_that_pops_leaves_the_others_their_ages(client, device):
    """DESIGN §4: it may share a CPU queue."""
    tags = [send(client, "ai-batch", memory_gb=gb) for gb in (1, 80, 2, 80, 3, 4)]
    first = device.claim()
    assert first.tag == tags[0]
    popped = tags_in([client.rpop("ai-batch:6"), client.rpop("ai-batch:6")])
    client.lpush("ai-batch:6", envelope(late := new_tag()))
    client.config_resetstat()
    left = [tag for tag in [*tags[1:], late] if tag not in popped and tag != tags[3]]
    assert device.drain() == left
    assert "cmdstat_unlink" not in client.info("commandstats")


def test_time_behind_a_gate_grows_while_it_is_closed(client, device):
    """§5.3: what comes in behind a closed gate has not waited when it opens, nor has what was there before."""
    gates.close(client, "ai-batch", "window")
    client.hset("gpumesh:gated", "+ai-batch", client.time()[0] * 10**6 - 3600 * 10**6)
    send(client, "ai-batch")
    gates.reopen(client, "ai-batch", "window")
    held = device.claim()
    _, _, gated, *_ = client.hget(f"gpumesh:claims:{device.worker}", held.tag).split("\t")
    assert 3599 * 10**6 < int(gated) < 3700 * 10**6
    assert int(client.hget("gpumesh:gated", "ai-batch")) - int(gated) < 10 * 10**6


def test_a_worker_idles_for_the_queues_that_are_open_to_it(client, device):
    """§7: a message behind a gate wakes nobody; the gate that opens does."""
    gates.close(client, "ai-batch", "manual", scope="node")
    assert device.claim() is None
    assert sorted(client.keys("gpumesh:idle:*")) == [
        f"gpumesh:idle:{queue}" for queue in ("ai-realtime", "customer", "internal", "revenue")
    ]
    tag = send(client, "ai-batch")
    assert client.keys("gpumesh:wake:*") == []
    gates.reopen(client, "ai-batch", "manual", scope="node")
    assert client.keys("gpumesh:wake:*") == ["gpumesh:wake:gpu0@node"]
    assert device.claim().tag == tag


def test_a_stranger_s_key_of_a_list_s_name_blocks_nobody(client, device):
    """§9: what is no list holds no message; the other queues go on, and the queue too once it is a list again."""
    send(client, "revenue")
    other = send(client)
    client.set("revenue:6", "no list")
    assert device.claim().tag == other
    device.ack(other)
    assert device.claim() is None
    client.delete("revenue:6")
    tag = send(client, "revenue")
    assert device.claim().tag == tag


@pytest.mark.parametrize("said", ["", "x\ty\tz", "1", "nan\t0\t0", "1e999\t0\t0", "-5\t0\t0", "1.5\t2.5\tq"])
def test_a_wrong_age_blocks_nobody(client, device, said):
    """§9: what is remembered of a message and cannot be read is as if it were not."""
    tag = new_tag()
    client.hset("gpumesh:again", tag, said)
    client.lpush("internal", envelope(tag))
    claimed = device.claim()
    assert (claimed.tag, claimed.deliveries) == (tag, 1)
    assert abs(claimed.at - client.time()[0]) < 10
