"""Redis's clock jumps, an hour back or forward: what ends by it ends in time, and no sooner (DESIGN §9).

A jump is made by writing what the scripts left as if the clock had been wrong until now.
"""

from __future__ import annotations

import pytest
import redis
from claiming import MAX_DELIVERIES, Device, new_tag, publish

from gpu_mesh.domain.claim import Rules
from gpu_mesh.domain.queues import Band
from gpu_mesh.store import claims, leases, nodes

HOUR = 3600 * 10**6
TTL_S = 10.0


@pytest.fixture
def now(client: redis.Redis) -> int:
    """Redis's clock, µs."""
    seconds, micros = client.time()
    return int(seconds) * 10**6 + int(micros)


def _was(client: redis.Redis, renewed: int, leases: dict[str, float], **more: int) -> None:
    client.set("gpumesh:renewed", renewed)
    client.zadd("gpumesh:leases", leases)
    for name, value in more.items():
        client.set(f"gpumesh:{name}", value)


def _claimed(client: redis.Redis, worker: str) -> str:
    """A job that this worker holds."""
    tag = new_tag()
    publish(client, "internal", Band.NORMAL, {}, tag)
    assert Device(client, worker).start().claim().tag == tag
    return tag


def test_after_a_step_back_a_dead_worker_is_reaped_in_time(client, now):
    """F1: neither its lease, nor a grace, nor a dead tender holds on for the hour."""
    tag = _claimed(client, "gpu0@dead")
    then = now + HOUR
    _was(client, then, {"gpu0@dead": then - 1, "gpu0@late": then + 10**6}, grace=then - 1)
    client.set("gpumesh:tender", "gpu0@dead", px=3_600_000)
    assert leases.renew(client, "gpu1@node", TTL_S, anew=True) is leases.Renewal.TENDS
    assert leases.reap(client, max_deliveries=MAX_DELIVERIES) == [leases.Reaped("gpu0@dead", tag, "requeued")]
    # What was left of a lease is left of it.
    assert 0 < client.zscore("gpumesh:leases", "gpu0@late") - now < 2 * 10**6


def test_a_step_back_takes_no_lease_from_the_living(client, now):
    tag = _claimed(client, "gpu0@node")
    then = now + HOUR
    _was(client, then, {"gpu0@node": then + 5 * 10**6})
    assert leases.renew(client, "gpu1@node", TTL_S, anew=True)
    assert leases.reap(client, max_deliveries=MAX_DELIVERIES) == []
    assert leases.renew(client, "gpu0@node", TTL_S)
    assert claims.holds(client, "gpu0@node", tag)


@pytest.mark.parametrize("jump_s", [6, 9, 11, 3600])
def test_a_step_forward_reaps_nobody(client, now, jump_s):
    """§6: leases of 10 s are renewed every 2 s; all that were not reach their ends at once."""
    tag = _claimed(client, "gpu0@node")
    then = now - jump_s * 10**6
    _was(client, then, {"gpu0@node": then + 8 * 10**6, "gpu1@node": then + 10**7})
    assert leases.renew(client, "gpu1@node", TTL_S)
    assert leases.reap(client, max_deliveries=MAX_DELIVERIES) == []
    assert leases.renew(client, "gpu0@node", TTL_S)
    assert claims.holds(client, "gpu0@node", tag)


def test_a_missed_renewal_is_no_step(client, now):
    """F1: while others renew, who does not is reaped when the lease ends."""
    tag = _claimed(client, "gpu0@dead")
    _was(client, now - 4 * 10**6, {"gpu0@dead": now - 1})
    leases.renew(client, "gpu1@node", TTL_S, anew=True)
    assert leases.reap(client, max_deliveries=MAX_DELIVERIES) == [leases.Reaped("gpu0@dead", tag, "requeued")]


def test_devices_are_not_kept_for_the_hour(client, now):
    """Nobody waits for ever: a job of two that gathered before the step begins anew, and others go on in its pause."""
    first, second = (Device(client, f"gpu{i}@node", rules=Rules(gather_s=60.0)).start() for i in (0, 1))
    running, job, single = new_tag(), new_tag(), new_tag()
    publish(client, "ai-batch", Band.NORMAL, {"memory_gb": 1}, running)
    assert second.claim().tag == running
    publish(client, "ai-batch", Band.NORMAL, {"gpu_count": 2}, job)
    publish(client, "ai-batch", Band.NORMAL, {}, single)
    number = client.hget("gpumesh:needs", '={"gpu_count": 2}')
    first.teams = {number: (1, [second.worker])}
    assert first.claim() is None
    *of, _, _ = client.hget("gpumesh:gather", "node").split("\t")
    client.hset("gpumesh:gather", "node", "\t".join([*of, str(now + HOUR), str(now + HOUR + 60 * 10**6)]))
    assert first.claim() is None
    *_, until, again = client.hget("gpumesh:gather", "node").split("\t")
    assert now < int(until) < now + 70 * 10**6
    assert now < int(again) < now + 130 * 10**6
    # Its pause, too, is no longer than it can be.
    client.hset("gpumesh:gather", "node", "\t".join([*of, "1", str(now + HOUR)]))
    assert first.claim() is None
    *_, until, _ = client.hget("gpumesh:gather", "node").split("\t")
    assert int(until) > now


def test_a_node_seen_in_the_future_is_silent(client, now):
    """N1: its name is free, and it is not online."""
    node = nodes.Node(name="n", role="compute", host="h", version="1")
    own = {"ttl_s": 60.0, "is_dead_here": lambda instance: False}
    nodes.register(client, node, instance="a", **own)
    held = client.hget("gpumesh:nodes", "n")
    seen_at = nodes.all_nodes(client)[0].seen_at
    client.hset("gpumesh:nodes", "n", held.replace(f"{seen_at:.3f}", f"{seen_at + 3600:.3f}"))
    [entry] = nodes.all_nodes(client)
    assert not entry.online(60.0)
    nodes.register(client, node, instance="b", **own)
    [entry] = nodes.all_nodes(client)
    assert entry.online(60.0)
