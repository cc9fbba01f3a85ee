"""Realtime jobs hold ai-batch back while their claims live (SPEC R3): script = model, and nothing leaks (DESIGN §7)."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from claiming import MAX_DELIVERIES, Device, send
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from gpu_mesh.domain.holds import HELD_QUEUE, REALTIME_QUEUES, LiveClaim, PauseScope, held_back, scope_of
from gpu_mesh.domain.queues import GPU_QUEUES
from gpu_mesh.store import claims, gates, holds, keys, leases
from gpu_mesh.store.scripts import script

WORKERS = ("gpu0@a", "gpu1@a", "gpu0@b")
#: Races: 1 000 rounds over all seeds and four workers.
SEEDS, ROUNDS = 4, 63


class Holding(RuleBasedStateMachine):
    """Workers of two nodes and of all scopes claim and let go in any way; the model says who may have ai-batch."""

    client: redis.Redis

    @initialize(scopes=st.tuples(*[st.sampled_from(PauseScope)] * len(WORKERS)))
    def begin(self, scopes):
        self.client.flushdb()
        self.devices = [
            Device(self.client, name, pause_scope=scope).start() for name, scope in zip(WORKERS, scopes, strict=True)
        ]
        self.live: dict[tuple[str, str], LiveClaim] = {}
        self.waiting: dict[str, str] = {}

    @rule(queue=st.sampled_from(["customer", "ai-realtime", "internal", HELD_QUEUE, HELD_QUEUE]))
    def publish(self, queue):
        self.waiting[send(self.client, queue)] = queue

    @rule(which=st.integers(0, 2), only=st.sampled_from([GPU_QUEUES, (HELD_QUEUE,), ("ai-realtime", HELD_QUEUE)]))
    def claim(self, which, only):
        device = self.devices[which]
        device.queues = only
        held = held_back(self.live.values(), device.worker)
        assert (HELD_QUEUE in holds.closed_to(self.client, device.worker).queues) is held
        claimed = device.claim()
        open_to_it = {queue for queue in self.waiting.values() if queue in only and not (held and queue == HELD_QUEUE)}
        best = min(open_to_it, key=GPU_QUEUES.index, default=None)
        assert (claimed.queue if claimed else None) == best
        if claimed:
            del self.waiting[claimed.tag]
            self.live[device.worker, claimed.tag] = LiveClaim(
                worker=device.worker, queue=claimed.queue, scope=device.pause_scope
            )

    @rule(which=st.integers(0, 2), scope=st.sampled_from(PauseScope))
    def change_setting(self, which, scope):
        """What it claimed before was claimed under another one."""
        self.devices[which].pause_scope = scope

    @rule(which=st.integers(0, 2), how=st.sampled_from(["ack", "requeue", "preempt", "bury", "delay"]))
    def let_go(self, which, how):
        device = self.devices[which]
        if not device.held:
            return
        tag = sorted(device.held)[0]
        queue = self.live.pop((device.worker, tag)).queue
        device.held.discard(tag)
        if how == "ack":
            assert claims.ack(self.client, device.worker, tag)
        elif how == "bury":
            assert claims.bury(self.client, device.worker, tag, why="test")
        elif how == "delay":
            raw = self.client.hget(keys.claims(device.worker), f"={tag}")
            assert claims.delay(self.client, f"{queue}:6", raw, tag, 4e9, worker=device.worker)
        else:
            assert claims.hand_back(self.client, device.worker, tag, counts=False, max_deliveries=MAX_DELIVERIES)
            self.waiting[tag] = queue

    @rule(which=st.integers(0, 2))
    def reap(self, which):
        device = self.devices[which]
        leases.reap(self.client, max_deliveries=1000, worker=device.worker)
        for tag in device.held:
            self.waiting[tag] = self.live.pop((device.worker, tag)).queue
        device.held.clear()
        device.start()

    @rule(which=st.integers(0, 2))
    def a_hand_deletes_its_claims(self, which):
        """As do scripts of before there were holds."""
        device = self.devices[which]
        self.client.delete(keys.claims(device.worker))
        for tag in device.held:
            del self.live[device.worker, tag]
        device.held.clear()

    @invariant()
    def the_scopes_are_those_of_living_claims(self):
        if hasattr(self, "live"):
            live = [claim for claim in self.live.values() if claim.queue in REALTIME_QUEUES]
            told = {hold.scope for hold in holds.holds(self.client)}
            assert told == {scope_of(claim.worker, claim.scope) for claim in live}

    def teardown(self):
        """When all has ended nothing is left of holds."""
        if hasattr(self, "live"):
            for device in self.devices:
                leases.reap(self.client, max_deliveries=1000, worker=device.worker)
                holds.closed_to(self.client, device.worker)
            assert self.client.keys(keys.realtime("*")) == []


def test_script_and_model_agree_on_who_is_held_back(client: redis.Redis):
    """R3, whoever claims, lets go or dies in whatever order."""

    class Bound(Holding):
        pass

    Bound.client = client
    run_state_machine_as_test(Bound, settings=settings(max_examples=40, stateful_step_count=30, deadline=None))


@dataclass
class Racer(Device):
    """Its calls are counted with those of all others, in the same transaction: the order is Redis's own."""

    number: int = 0

    def call(self, name: str, arguments: list[str]) -> Any:
        with self.client.pipeline() as pipe:
            script(pipe, name)(args=arguments)
            pipe.incr("calls")
            told, self.number = pipe.execute()
        return told


@pytest.mark.parametrize("seed", range(SEEDS))
def test_races(client: redis.Redis, seed: int):
    """R3: of 1 000 seeded rounds in which four workers publish, claim and ack at once, in none a batch job is claimed
    while a realtime claim lives in its scope; and not for want of batch claims."""
    racers = [Racer(client, f"gpu{i}@{'ab'[i % 2]}").start() for i in range(4)]
    steps: list[tuple[int, str, str, str]] = []

    def race(racer: Racer) -> None:
        chance = random.Random(f"{seed} {racer.worker}")
        for _ in range(ROUNDS):
            send(client, chance.choice(["ai-realtime", *[HELD_QUEUE] * 3]))
            if isinstance(claimed := racer.claim(), claims.Claimed):
                steps.append((racer.number, racer.worker, "claim", claimed.queue))
                for _ in range(chance.randrange(3)):
                    client.ping()
                racer.held.discard(claimed.tag)
                assert racer.call("ack", [racer.worker, claimed.tag, "", "0"])
                steps.append((racer.number, racer.worker, "end", claimed.queue))

    with ThreadPoolExecutor(len(racers)) as pool:
        list(pool.map(race, racers))
    live, met = set(), Counter()
    for _, worker, what, queue in sorted(steps):
        if what == "claim" and queue == HELD_QUEUE:
            assert not any(holder[-1] == worker[-1] for holder in live)
        if queue == "ai-realtime":
            (live.add if what == "claim" else live.discard)(worker)
        met[what, queue] += 1
    assert met["claim", HELD_QUEUE] > 20
    assert met["claim", "ai-realtime"] > 20


@pytest.fixture
def node(client: redis.Redis) -> list[Device]:
    """Two devices of one node, and one of another, all idle."""
    found = [Device(client, name).start() for name in WORKERS]
    for device in found:
        assert device.claim() is None
    return found


def woken(client: redis.Redis) -> list[str]:
    """Who has been woken since the last look."""
    names = client.keys("gpumesh:wake:*")
    if names:
        client.delete(*names)
    return sorted(name.removeprefix("gpumesh:wake:") for name in names)


@pytest.mark.parametrize("queue", sorted(REALTIME_QUEUES))
@pytest.mark.parametrize(
    ("scope", "held"),
    [(PauseScope.GPU, []), (PauseScope.NODE, ["gpu1@a"]), (PauseScope.MESH, ["gpu0@b", "gpu1@a"])],
)
def test_the_scope_says_who_is_held_back(client, node, queue, scope, held):
    """R3: every class of the interactive tier, in the scope of the worker that runs the job; internal work goes on."""
    first, *others = node
    first.pause_scope = scope
    send(client, queue)
    first.claim()
    for _ in range(len(held) + 2):
        send(client, HELD_QUEUE)
    told = {device.worker: device.claim() for device in others}
    assert sorted(name for name, claimed in told.items() if claimed is None) == held
    send(client, "internal")
    assert any(device.claim() for device in others)


def test_internal_and_batch_jobs_hold_nothing_back(client, node):
    """R3: only the interactive tier does."""
    for queue in ("internal", HELD_QUEUE):
        send(client, queue)
        node[0].claim()
        send(client, HELD_QUEUE)
        assert node[1].claim().queue == HELD_QUEUE
    assert holds.holds(client) == []


def test_the_last_of_a_scope_wakes_as_many_as_there_is_work(client, node):
    """S4: those who are idle for want of ai-batch look at once; where nothing waits nobody is woken."""
    first, second, other = node
    tags = [send(client, "ai-realtime") for _ in range(2)]
    assert [first.claim().tag, other.claim().tag] == tags
    third = Device(client, "gpu2@a").start()
    assert second.claim() is None
    assert third.claim() is None
    woken(client)
    send(client, HELD_QUEUE)
    assert woken(client) == []
    other.ack(tags[1])
    assert woken(client) == []
    first.ack(tags[0])
    assert len(woken(client)) == 1
    send(client, "ai-realtime")
    tag = first.claim().tag
    client.delete(f"{HELD_QUEUE}:6")
    for device in (second, third):
        device.look = "1"
        device.claim()
    woken(client)
    first.ack(tag)
    assert woken(client) == []


def test_who_ends_while_another_runs_wakes_nobody(client, node):
    """R3: batch goes on when no realtime job is active in scope, not sooner."""
    first, second, _ = node
    third = Device(client, "gpu2@a").start()
    tags = [send(client, "ai-realtime"), send(client, "customer")]
    assert {second.claim().tag, third.claim().tag} == set(tags)
    send(client, HELD_QUEUE)
    assert first.claim() is None
    woken(client)
    assert sum(second.ack(tag) for tag in tags) == 1
    assert woken(client) == []
    assert sum(third.ack(tag) for tag in tags) == 1
    assert woken(client) == [first.worker]


@pytest.mark.parametrize("how", ["requeue", "bury", "reap", "delay"])
def test_every_end_of_a_claim_wakes(client, node, how):
    """S4: not only an ack."""
    first, second, _ = node
    send(client, "ai-realtime")
    tag = first.claim().tag
    send(client, HELD_QUEUE)
    client.delete("gpumesh:idle:ai-batch")
    assert second.claim() is None
    woken(client)
    if how == "requeue":
        claims.hand_back(client, first.worker, tag, counts=True, max_deliveries=9)
    elif how == "bury":
        claims.bury(client, first.worker, tag, why="test")
    elif how == "delay":
        claims.delay(client, "ai-realtime:6", "{}", tag, 4e9, worker=first.worker)
    else:
        leases.reap(client, worker=first.worker, max_deliveries=9)
    assert second.worker in woken(client)
    assert client.keys(keys.realtime("*")) == []


def test_who_is_woken_for_what_is_held_back_wakes_another(client, node):
    """S4: a publish may wake a worker that was idle for ai-batch before the hold began; the work fits elsewhere too."""
    first, second, other = node
    send(client, "ai-realtime")
    first.claim()
    client.zadd("gpumesh:idle:ai-batch", {second.worker: 1})
    woken(client)
    send(client, HELD_QUEUE)
    woken(client)
    client.zadd("gpumesh:idle:ai-batch", {other.worker: 1})
    assert second.claim() is None
    assert woken(client) == [other.worker]
    second.idle = True
    assert second.claim() is None
    assert woken(client) == []
    assert other.claim().queue == HELD_QUEUE


def test_a_job_of_two_holds_its_sibling_back_too(client, node):
    """R3, scope gpu: all the devices that serve it, until it has ended."""
    first, second, _ = node
    first.pause_scope = PauseScope.GPU
    needs = send(client, "customer", gpu_count=2)
    assert isinstance(first.ask(), claims.Unjudged)
    [number] = [number for number, told in client.hgetall("gpumesh:needs").items() if told == '{"gpu_count": 2}']
    first.teams = {number: (1, [second.worker])}
    assert first.claim().siblings == (second.worker,)
    assert [hold.scope for hold in holds.holds(client)] == [first.worker, second.worker]
    assert [holds.closed_to(client, device.worker).queues for device in node] == [{HELD_QUEUE}, {HELD_QUEUE}, set()]
    assert first.ack(needs)
    assert client.keys(keys.realtime("*")) == []


def test_a_gate_closes_beside_a_hold(client, node):
    """DESIGN §7: a queue is open when it has no reason left; who is woken by one of them waits for the other."""
    first, second, _ = node
    send(client, "ai-realtime")
    tag = first.claim().tag
    gates.close(client, HELD_QUEUE, "window")
    send(client, HELD_QUEUE)
    assert second.claim() is None
    assert holds.closed_to(client, second.worker).queues == {HELD_QUEUE}
    woken(client)
    first.ack(tag)
    assert woken(client) == []
    assert second.claim() is None
    gates.reopen(client, HELD_QUEUE, "window")
    assert second.worker in woken(client)
    assert second.claim().queue == HELD_QUEUE


def test_a_hold_without_a_claim_holds_nothing(client, node):
    """No leak: what an older script left, or nonsense, is dropped by the next who looks."""
    now = client.time()[0] * 1e6
    client.zadd(keys.realtime("a"), {"gpu0@a\tgone": now, "gpu9@gone\tx": now, "nonsense": now})
    send(client, HELD_QUEUE)
    assert holds.holds(client) == []
    assert node[1].claim().queue == HELD_QUEUE
    assert client.keys(keys.realtime("*")) == []


def test_a_claim_of_before_there_were_holds_ends_without_one(client, node):
    """An upgrade in mid-job: the claim has no hold, and its end leaves none behind, nor one below nothing."""
    send(client, "ai-realtime")
    tag = node[0].claim().tag
    client.delete(*client.keys(keys.realtime("*")))
    send(client, HELD_QUEUE)
    assert node[1].claim().queue == HELD_QUEUE
    assert node[0].ack(tag)
    assert client.keys(keys.realtime("*")) == []


def test_a_full_redis_resumes_batch(client, node):
    """DESIGN §9: claims and ends of realtime jobs need no memory."""
    send(client, "ai-realtime")
    send(client, HELD_QUEUE)
    client.config_set("maxmemory", 1)
    tag = node[0].claim().tag
    assert node[1].claim() is None
    assert node[0].ack(tag)
    assert node[1].claim().queue == HELD_QUEUE
    client.config_set("maxmemory", 0)


def test_holds_say_where_and_since_when(client, node):
    """What `gpu-mesh queues` shows: scope, since when, by whom."""
    before = client.time()
    first = send(client, "customer")
    node[0].claim()
    second = send(client, "revenue")
    node[1].claim()
    [hold] = holds.holds(client)
    assert (hold.scope, hold.workers, hold.tasks) == ("a", ("gpu0@a", "gpu1@a"), (first, second))
    assert before[0] <= hold.since <= client.time()[0] + 1
