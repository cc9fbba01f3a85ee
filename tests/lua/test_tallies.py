"""What the scripts count where it happens, for the metrics (SPEC A4): refusals, failovers, closings, periodic work."""

from __future__ import annotations

from claiming import MAX_DELIVERIES, Device, send

from gpu_mesh.domain.queues import GPU_QUEUES
from gpu_mesh.store import claims, cordons, gates, keys, leases, scrape, ticks


def counted(client):
    return {name: int(count) for name, count in client.hgetall(keys.STATS).items()}


def test_refusals_by_reason(client, device):
    assert Device(client, "gpu1@node").claim() == claims.Refused("lease")
    cordons.cordon(client, "node", "drain", why="drained")
    for _ in range(2):
        device.claim()
    assert counted(client) == {"refused|lease": 1, "refused|cordon": 2}
    cordons.lift(client, "node", "drain")
    assert device.claim() is None
    assert counted(client) == {"refused|lease": 1, "refused|cordon": 2}


def test_failovers_of_machines_and_claims(client, device):
    """A lease that ran out is a machine that vanished; a worker that leaves in order, or is reaped by name, is none."""
    send(client)
    device.claim()
    client.zadd("gpumesh:leases", {device.worker: 1})
    leases.reap(client, max_deliveries=MAX_DELIVERIES)
    leases.reap(client, max_deliveries=MAX_DELIVERIES)
    assert counted(client) == {"claims_requeued": 1, "leases_ended": 1}
    other = Device(client, "gpu1@node").start()
    other.claim()
    leases.reap(client, worker=other.worker, max_deliveries=1)
    Device(client, "gpu2@node").start()
    leases.reap(client, worker="gpu2@node", max_deliveries=1)
    assert counted(client) == {"claims_requeued": 1, "claims_dead": 1, "leases_ended": 1}


def test_closings_are_counted_when_a_queue_closes(client):
    for _ in range(2):
        gates.close(client, "ai-batch", "manual", why="again")
    gates.reopen(client, "ai-batch", "manual")
    gates.close(client, "ai-batch", "manual", scope="node")
    gates.close(client, "internal", "usage")
    assert counted(client) == {"closed|ai-batch|manual": 2, "closed|internal|usage": 1}


def test_a_stranger_in_the_counters_stops_nothing(client, device):
    """What counts is no reason to fail."""
    client.set(keys.STATS, "a stranger's")
    send(client)
    device.claim()
    client.zadd("gpumesh:leases", {device.worker: 1})
    assert len(leases.reap(client, max_deliveries=MAX_DELIVERIES)) == 1
    assert Device(client, "gpu1@node").claim() == claims.Refused("lease")
    assert gates.close(client, "ai-batch", "manual")


def test_a_full_redis_refuses_claims_as_ever(client):
    client.config_set("maxmemory", 1)
    try:
        assert Device(client, "gpu1@node").claim() == claims.Refused("lease")
    finally:
        client.config_set("maxmemory", 0)


def test_ticks(client):
    now = float(client.time()[0])
    ticks.note(client, "health", 0.25, failed=False, due=now - 2.25)
    ticks.note(client, "health", 0.5, failed=True)
    ticks.note(client, "line", 0.125, failed=False, due=now + 60)
    found = ticks.parse(client.hgetall(keys.TICKS))
    assert (found["health"].runs, found["health"].failed) == (2, 1)
    assert (found["health"].total_s, found["health"].last_s) == (0.75, 0.5)
    # Redis's clock has moved on, and not by much; what is before its time is not late.
    assert 2.0 <= found["health"].late_s < 60
    assert found["line"].late_s == 0
    assert abs(found["health"].at - now) < 60
    assert ticks.parse({"health|runs": "many", "|": "1", "x": "2", "y|us": "3"}) == {}


def test_what_workers_hold_and_hold_back(client, device):
    """R3: as claims have it, not the account of them."""
    send(client, "customer")
    send(client, "internal")
    device.claim()
    client.zadd(keys.realtime("*"), {"gpu7@gone\tt": 1})
    seen = scrape.read(client, GPU_QUEUES)
    assert [(one.worker, one.claim.list) for one in seen.holdings] == [("gpu0@node", "customer:6")]
    assert seen.held_back == ["node"]
    assert seen.waiting == {**dict.fromkeys(GPU_QUEUES, 0), "internal": 1}
    assert seen.oldest.keys() == {"internal"}
    assert 0 <= seen.now - seen.oldest["internal"] < 60
