"""Faults that a review found, each made to happen again (DESIGN §5, §6, §9)."""

from __future__ import annotations

import json

import pytest
import redis
from claiming import MAX_DELIVERIES, Device, envelope, new_tag, send, tags_in, waiting
from redis_servers import RedisServer, running
from waiting import wait_for

from gpu_mesh.domain.claim import Rules
from gpu_mesh.errors import InvalidValue
from gpu_mesh.store import claims, cordons, gates, leases
from gpu_mesh.store.scripts import script


def dead(client: redis.Redis) -> list[str]:
    """Tags of the dead letters."""
    return tags_in(client.lrange("gpumesh:dead", 0, -1))


def reap(client: redis.Redis, device: Device) -> None:
    leases.reap(client, worker=device.worker, max_deliveries=MAX_DELIVERIES)
    device.start().held.clear()


def test_what_comes_back_into_a_purged_list_is_claimed(client, device):
    """A queue is purged while two of its jobs run, then their workers die."""
    other = Device(client, "gpu1@node", max_gb=100).start()
    big, small = send(client, memory_gb=80), send(client, memory_gb=8)
    assert (other.claim().tag, device.claim().tag) == (big, small)
    send(client)
    client.delete("internal:6")
    assert device.claim() is None  # the list is forgotten
    reap(client, device)
    reap(client, other)
    assert device.claim().tag == small
    assert other.claim().tag == big


def test_a_message_moved_from_behind_a_gate_is_claimed(client, device):
    """Its queue was gated for longer than the one it goes to: it keeps its age and its deliveries."""
    tag = send(client)
    first = device.claim()
    gates.close(client, "internal", "manual")
    claims.hand_back(client, device.worker, tag, counts=True, max_deliveries=MAX_DELIVERIES)
    device.held.clear()
    client.hset("gpumesh:gated", "+internal", client.time()[0] * 10**6 - 10**9)
    (raw,) = client.lrange("internal:6", 0, -1)
    assert script(client, "move")(args=["internal:6", raw, "customer:6", raw, tag, ""])
    again = device.claim()
    assert (again.tag, again.at, again.deliveries) == (tag, first.at, 2)


def test_a_clock_that_steps_back_behind_a_gate_stops_nobody(client, device):
    gates.close(client, "internal", "manual")
    client.hset("gpumesh:gated", "+internal", client.time()[0] * 10**6 + 10**9)
    tag = send(client)
    gates.reopen(client, "internal", "manual")
    assert device.claim().tag == tag
    assert int(client.hget("gpumesh:gated", "internal")) >= 0


def test_a_clock_that_steps_back_hides_no_stranger_s_message(client, device):
    assert device.claim() is None
    client.hset("gpumesh:state", "=looked", client.time()[0] * 10**6 + 3600 * 10**6)
    client.lpush("internal", envelope(new_tag()))
    device.look = ""  # as a worker asks after a pause
    assert not isinstance(device.ask(), claims.Idle)


@pytest.mark.parametrize("node", ["mesh", "looked", "idle"])
def test_a_node_may_bear_any_name(client, node):
    """N2: a gate of a node that is called as something of ours is that node's alone."""
    tag = send(client, "ai-batch")
    assert gates.close(client, "ai-batch", "manual", scope=node)
    own, other = (Device(client, f"gpu0@{name}").start() for name in (node, "other"))
    assert own.claim() is None
    assert other.claim().tag == tag
    assert client.hget("gpumesh:gated", "+ai-batch") is None  # the mesh's time behind gates does not run
    assert gates.reopen(client, "ai-batch", "manual", scope=node)
    assert gates.close(client, "ai-batch", "manual")
    for device in (own, other):
        device.ack(tag)
        assert device.claim() is None


@pytest.mark.parametrize("scope", ["", "=looked", "!x", "+x", ":x", "a@b@c", "@x", "x@", "**", "a b", "*@x", "x\n"])
def test_a_scope_that_could_mean_another_is_refused(client, scope):
    for call in (gates.close, gates.reopen):
        with pytest.raises(InvalidValue, match=r"^scope="):
            call(client, "ai-batch", "manual", scope=scope)
    assert client.keys("*") == []


@pytest.mark.parametrize(("queue", "reason"), [("a|b", "manual"), ("a,b", "manual"), ("ai-batch", "x@y"), ("", "x")])
def test_a_gate_of_no_name_is_refused(client, queue, reason):
    with pytest.raises(InvalidValue, match=r"^(queue|reason)="):
        gates.close(client, queue, reason)
    assert client.keys("*") == []


def test_a_cordoned_device_serves_no_sibling_s_job(client):
    """One that fell off the bus."""
    first, second = (Device(client, f"gpu{i}@node", rules=Rules(gather_s=0.001)).start() for i in (0, 1))
    needs = {"gpu_count": 2}
    job = send(client, **needs)
    first.teams = {"1": (1, [second.worker])}
    cordons.cordon(client, second.worker, "drain", why="off the bus")
    assert first.claim() is None
    cordons.lift(client, second.worker, "drain")
    client.delete("gpumesh:gather")
    assert first.claim().tag == job


def test_a_job_whose_list_is_no_list_any_more_is_kept(client, device):
    """Given back, delayed or moved: a stranger's key of the list's name swallows nothing."""
    tag = send(client)
    device.claim()
    client.set("internal:6", "no list")
    reap(client, device)
    assert dead(client) == [tag]

    delayed = [new_tag() for _ in range(2)]
    for queue, late in zip(("internal:6", "customer:6"), delayed, strict=True):
        seconds, micros = client.time()
        assert claims.delay(client, queue, envelope(late), late, seconds + micros / 1e6 + 0.05)
    wait_for(lambda: claims.promote(client), "the delayed ones to be due")
    assert dead(client) == [delayed[0], tag]
    assert waiting(client, ["customer"]) == [delayed[1]]

    (raw,) = client.lrange("customer:6", 0, -1)
    assert not script(client, "move")(args=["customer:6", raw, "internal:6", raw, delayed[1], ""])
    assert waiting(client, ["customer"]) == [delayed[1]]


def test_taking_back_a_task_with_free_fields_leaves_the_others_their_ages(client, device):
    """Needs are indexed without them (channel.py)."""
    raw = envelope(tag := new_tag(), mesh={"needs": {"epochs": 3}})
    others = [send(client)]
    script(client, "publish")(args=["internal:6", raw, "normal", "{}", tag, tag, "normal"])
    others.append(send(client))
    client.config_resetstat()
    assert script(client, "remove")(args=["internal:6", raw])
    assert "cmdstat_unlink" not in client.info("commandstats")
    assert device.drain() == others


def test_a_malformed_message_behind_what_a_stranger_took(client, device):
    first = send(client)
    client.lpush("internal:6", "{", envelope(last := new_tag()))
    Device(client, "gpu1@node", max_gb=-1).start().claim()  # indexes all three
    assert tags_in([client.rpop("internal:6")]) == [first]
    assert device.drain() == [last]
    assert client.keys("gpumesh:group:*") == []


def test_a_look_that_mends_counts_what_is_left(client, device):
    """Putting away what is malformed makes the list shorter: nothing beyond its end is indexed."""
    first = send(client)
    assert device.drain() == [first]  # the needs of all are judged
    taken, *left = [new_tag() for _ in range(3)]
    client.lpush("internal:6", envelope(taken), "{", *(envelope(tag) for tag in left))
    urgent = send(client, "revenue")
    device.look = "1"
    assert device.claim().tag == urgent  # indexes all of them, and meets none
    assert tags_in([client.rpop("internal:6")]) == [taken]
    client.config_resetstat()
    device.look = "1"
    assert device.drain() == left
    assert "cmdstat_unlink" not in client.info("commandstats")


def test_nothing_is_remembered_of_what_is_done(client, device):
    """Given back, uncounted, then done."""
    tag = send(client)
    for counts in (False, False):
        device.claim()
        device.held.clear()
        claims.hand_back(client, device.worker, tag, counts=counts, max_deliveries=MAX_DELIVERIES)
    device.claim()
    assert device.ack(tag)
    assert client.keys("gpumesh:again") == []


def test_headers_behind_properties_in_a_long_envelope(client, device):
    """Whatever their order: what a stranger wrote whole is no malformed message."""
    data = json.loads(envelope(tag := new_tag(), body="x" * 20_000))
    client.lpush("internal", json.dumps({name: data[name] for name in ("properties", "body", "headers")}))
    assert device.claim().tag == tag


@pytest.mark.parametrize(
    ("index", "look"),
    [
        ({"base": "1e17", "top": "1e17"}, "1"),  # both messages are indexed as strangers'
        ({"base": "1e17", "top": "100000000000000032", "m0": "100000000000000032"}, "internal:6"),  # mended
    ],
)
def test_an_index_beyond_what_numbers_count_keeps_no_script_for_ever(tmp_path, index, look):
    """Beyond 2^53 one more is the same number: a loop over positions there would keep Redis, and fill its memory."""
    with running(RedisServer(tmp_path)) as server, server.client() as client:
        device = Device(client, max_gb=24).start()
        sent = {send(client)}
        client.hset("gpumesh:list:internal:6", mapping=index)
        if look == "1":
            sent.add(tag := new_tag())
            client.lpush("internal:6", envelope(tag))
        device.look = look
        client.connection_pool.connection_kwargs["socket_timeout"] = 5.0
        client.connection_pool.disconnect()
        assert sent <= set(device.drain())
