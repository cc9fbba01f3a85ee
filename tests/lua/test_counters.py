"""What ended is counted once, whatever ended it (SPEC H8, P4): the scripts and store/counters.py."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
import redis
from claiming import MAX_DELIVERIES, Device, envelope, new_tag, publish, send

from gpu_mesh.domain.queues import Band
from gpu_mesh.domain.stats import Outcome, bucket
from gpu_mesh.store import claims, counters, keys, leases


def ended(outcome: Outcome = Outcome.SUCCESS, model: str | None = None, ran_s: float = 0.5) -> claims.Ended:
    return claims.Ended("{}", outcome, model, ran_s)


def take(device: Device) -> str:
    claimed = device.claim()
    assert isinstance(claimed, claims.Claimed)
    return claimed.tag


def finish(client: redis.Redis, device: Device, *hows: claims.Ended) -> None:
    for how in hows:
        tag = take(device)
        device.held.discard(tag)
        assert claims.ack(client, device.worker, tag, ended=how)


def line(at: int, worker: str = "gpu0@a", model: str = "", outcome: str = "success") -> str:
    return f"{at}\t{outcome}\t{worker}\t500000\t{model}\t\tinternal:6\t{at}000000\t0\t1\t1\tnormal\t{at}000000\t\tid"


def test_each_ending_counts_once_where_it_belongs(client, device):
    for _ in range(4):
        send(client, model="m:7b")
    publish(client, "ai-batch", Band.CRITICAL, {}, new_tag())
    finish(
        client,
        device,
        ended(model="m:7b"),
        ended(model="m:7b", ran_s=3.0),
        ended(Outcome.FAILURE, "m:7b"),
        ended(Outcome.RETRY),
        ended(Outcome.REVOKED, ran_s=0.0),
    )
    found = counters.read(client, 600)
    assert found.outcomes() == {
        Outcome.SUCCESS: 2,
        Outcome.FAILURE: 1,
        Outcome.RETRY: 1,
        Outcome.REVOKED: 1,
    }
    runs = found.runs["internal", "normal", Outcome.SUCCESS, device.worker]
    assert (runs.count, runs.ran_s) == (2, pytest.approx(3.5))
    assert found.runs["ai-batch", "critical", Outcome.REVOKED, device.worker].count == 1
    # Cancelled ones are in no histogram.
    assert found.times == {("internal", "normal"): Counter({bucket(0.5): 3, bucket(3.0): 1})}
    assert sum(found.waits["internal", "normal"].values()) == 4
    models = {outcome: runs for (name, _, outcome), runs in found.models.items() if name == "m:7b"}
    assert models[Outcome.SUCCESS].buckets == Counter({bucket(0.5): 1, bucket(3.0): 1})
    assert models[Outcome.SUCCESS].ran_s == pytest.approx(3.5)
    assert models[Outcome.FAILURE].buckets.total() == 1
    # Read again they are the same, and so are those of all time.
    assert counters.read(client, 600).runs == found.runs == counters.totals(client).runs
    assert counters.read(client, 86_400).runs == found.runs


def test_a_wait_is_from_the_message_to_the_claim_by_redis(client, device):
    send(client)
    tag = take(device)
    record = claims.read_record(client.hget(keys.claims(device.worker), tag))
    claims.ack(client, device.worker, tag, ended=ended())
    runs = counters.read(client, 60).runs["internal", "normal", Outcome.SUCCESS, device.worker]
    assert runs.waited_s == pytest.approx(record.claimed_at - record.at, abs=2e-6)
    assert runs.waited_s > 0


def test_what_does_not_end_by_an_ack_is_counted_too(client, device):
    for counts, preempted, became in ((False, True, "preempted"), (False, False, "handed_back"), (True, False, "lost")):
        send(client)
        tag = take(device)
        device.held.discard(tag)
        claims.hand_back(client, device.worker, tag, counts=counts, max_deliveries=MAX_DELIVERIES, preempted=preempted)
        assert device.drain()
        assert counters.totals(client).outcomes()[Outcome(became)] == 1
    send(client)
    assert claims.bury(client, device.worker, take(device), why="test")
    send(client, model="m")
    device.held.clear()
    poison = take(device)
    device.held.clear()
    claims.hand_back(client, device.worker, poison, counts=True, max_deliveries=1)
    found = counters.totals(client)
    assert found.outcomes() == {
        Outcome.PREEMPTED: 1,
        Outcome.HANDED_BACK: 1,
        Outcome.LOST: 1,
        Outcome.DEAD: 2,
    }  # what drain acked said nothing
    assert [(model, outcome) for model, _, outcome in found.models] == [("m", Outcome.DEAD)]
    assert not found.times  # no end of their own


def test_a_dead_worker_s_job_is_lost_once(client, device):
    send(client)
    take(device)
    assert leases.reap(client, max_deliveries=MAX_DELIVERIES, worker=device.worker)
    assert not leases.reap(client, max_deliveries=MAX_DELIVERIES, worker=device.worker)
    assert counters.totals(client).outcomes() == {Outcome.LOST: 1}


def test_a_late_ack_and_the_mesh_s_own_tasks_are_not_counted(client, device):
    send(client)
    tag = take(device)
    leases.reap(client, max_deliveries=MAX_DELIVERIES, worker=device.worker)
    assert not claims.ack(client, device.worker, tag, ended=ended())
    assert counters.totals(client).outcomes() == {Outcome.LOST: 1}
    client.flushall()
    device.judged.clear()
    device.held.clear()
    device.start()
    own = new_tag()
    client.lpush("internal:6", envelope(own, task="mesh.tidy"))
    device.look = "1"
    assert take(device) == own
    claims.hand_back(client, device.worker, own, counts=True, max_deliveries=MAX_DELIVERIES)
    assert counters.totals(client).outcomes() == {}


def test_a_change_of_model_is_a_swap(client, device):
    """SPEC P7: a claim whose model is not the one loaded; the first load is none, nor is a job without a model."""
    for needs in ({"model": "a"}, {"model": "a"}, {}, {"model": "b"}):
        send(client, **needs)
        tag = take(device)
        record = client.hget(keys.claims(device.worker), tag)
        number = claims.read_record(record).needs
        device.loaded = device.judged[number][1] or device.loaded
        device.ack(tag)
    assert counters.totals(client).swaps == {device.worker: 1}


def test_a_sibling_that_serves_a_job_is_busy(client):
    at = client.time()[0]
    client.rpush(keys.ENDED, line(at).replace("\t\tinternal", "\tgpu1@a,gpu2@a\tinternal"))
    assert counters.totals(client).served == {"gpu1@a": 0.5, "gpu2@a": 0.5}


def test_those_who_count_at_once_count_nothing_twice(client, server):
    at = client.time()[0]
    client.rpush(keys.ENDED, *[line(at)] * 5000)
    start = threading.Barrier(4)

    def count() -> None:
        with server.client() as own:
            start.wait()
            done.append(counters.fold(own))

    done: list[int] = []
    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    counters.fold(client)
    assert counters.totals(client).outcomes() == {Outcome.SUCCESS: 5000}
    assert client.llen(keys.ENDED) == 0


def test_lines_that_nobody_counts_do_not_fill_redis(client, device):
    pipe = client.pipeline()
    at = client.time()[0]
    for _ in range(10):
        pipe.rpush(keys.ENDED, *[line(at)] * 10_000)
    pipe.execute()
    send(client)
    finish(client, device, ended())
    assert client.llen(keys.ENDED) == 90_001
    assert client.get(keys.ENDED_FIRST) == "10000"
    assert counters.fold(client) == 90_001  # whose numbers go on


def test_odd_names_and_broken_lines_break_nothing(client, device):
    at = client.time()[0]
    for model in ("a\tb\nc", "Größe", "\ud800", "x" * 5000, "*"):
        send(client)
        finish(client, device, ended(model=model))
    client.rpush(keys.ENDED, "", "nonsense", line(at, outcome="strange"), "1\tsuccess\tw\tx\t\t\tinternal", line(at))
    found = counters.totals(client)
    assert found.outcomes() == {Outcome.SUCCESS: 6}
    assert {name for name, _, _ in found.models} == {"a?b?c", "Gr??e", "?", "x" * 200, "*"}
    client.hset(keys.count("all"), "n\tinternal\tnormal\tno such outcome\nw", 1)
    client.hset(keys.count("all"), "who knows", "what")
    assert counters.totals(client).outcomes() == {Outcome.SUCCESS: 6}


def test_names_without_end_are_counted_together(client):
    at = client.time()[0]
    for start in range(0, 4000, 500):
        client.rpush(keys.ENDED, *(line(at, model=f"model-{i}") for i in range(start, start + 500)))
    found = counters.read(client, 60)
    minute = keys.count("minute", at // 60)
    assert client.hlen(minute) <= counters.FIELDS / 3 + 10
    total = sum(runs.buckets.total() for runs in found.models.values())
    assert total == 4000
    assert sum(r.buckets.total() for (m, _, _), r in found.models.items() if m == counters.OTHERS) > 2900
    assert found.outcomes() == {Outcome.SUCCESS: 4000}


def test_spans_are_read_apart(client):
    now = client.time()[0]
    for ago in (0, 120, 3 * 60, 50 * 60, 5 * 3600, 30 * 3600):
        client.rpush(keys.ENDED, line(now - ago))

    def count(span_s: float) -> int:
        return counters.read(client, span_s).outcomes().get(Outcome.SUCCESS, 0)

    assert (count(60), count(240), count(3600), count(86_400)) == (1, 3, 4, 5)
    assert counters.totals(client).outcomes() == {Outcome.SUCCESS: 6}
    found = counters.last_minutes(client, 4)  # without the current minute
    assert found.span_s == 240
    assert found.outcomes() == {Outcome.SUCCESS: 2}
    assert 0 < client.ttl(keys.count("minute", now // 60)) <= 7200


def test_a_full_redis_loses_no_ack_and_counts_it(client, device):
    send(client)
    tag = take(device)
    client.config_set("maxmemory", 1)
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        client.set("any", "thing")
    assert claims.ack(client, device.worker, tag, ended=ended())
    assert counters.fold(client) == 1
    client.config_set("maxmemory", 0)
    assert counters.totals(client).outcomes() == {Outcome.SUCCESS: 1}


def test_a_stranger_s_key_keeps_no_claim_from_ending(client, device):
    send(client)
    client.set(keys.ENDED, "a stranger's")
    finish(client, device, ended())
    assert not client.exists(keys.claims(device.worker))
