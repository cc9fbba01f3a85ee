"""claim.lua and its Python model see the same worlds and agree, and no message is ever lost (DESIGN §5, S3)."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import redis
from claiming import MAX_DELIVERIES, STEPS, Device, claimed_at, envelope, new_tag, publish, tags_in, waiting
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from gpu_mesh.domain import claim as model
from gpu_mesh.domain.queues import GPU_QUEUES, Band
from gpu_mesh.store import claims, gates, leases

QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
NEEDS: list[dict[str, Any]] = [
    {},
    {"memory_gb": 8},
    {"memory_gb": 24, "model": "a"},
    {"memory_gb": 8, "model": "b"},
    {"model": "a"},
    {"memory_gb": 80},
]
#: Ages around every bound there is, s; equal ones make ties, and the clock may have stepped back since.
AGES = st.sampled_from([-3600.0, -1.0, 0.0, 1.0, 59.0, 61.0, 900.0, 1799.0, 1801.0, 5000.0, 1e6])


@dataclass(frozen=True)
class Sent:
    """One message of a world."""

    queue: str
    band: Band
    needs: dict[str, Any]
    age: float
    stock: bool


MESSAGES = st.lists(
    st.builds(
        Sent,
        st.sampled_from(GPU_QUEUES),
        st.sampled_from(list(Band)),
        st.sampled_from(NEEDS),
        AGES,
        st.booleans(),
    ),
    max_size=25,
)
SCOPES = st.sampled_from([gates.MESH, "node", "gpu0@node", "other", "mesh", "gpu1@node", "gpu0@other"])
GATES = st.sets(st.tuples(st.sampled_from(GPU_QUEUES), st.sampled_from(["window", "manual"]), SCOPES), max_size=3)
TOTALS = st.dictionaries(st.sampled_from(GPU_QUEUES), st.sampled_from([0.0, 10.0, 1000.0]), max_size=3)


@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(
    messages=MESSAGES,
    closings=GATES,
    totals=TOTALS,
    max_gb=st.sampled_from([0, 8, 24, 100]),
    loaded=st.sampled_from([None, "a", "b"]),
    queues=st.sets(st.sampled_from(GPU_QUEUES), min_size=1),
    horizon=st.sampled_from([1800.0, 10.0]),
)
def test_script_and_model_take_the_same_messages(
    client: redis.Redis, messages, closings, totals, max_gb, loaded, queues, horizon
):
    """Q1-Q5, P2, P7: both empty the same world in the same order, and stop at the same point."""
    client.flushdb()
    rules = model.Rules(horizon_s=horizon)
    device = Device(client, max_gb=max_gb, loaded=loaded, queues=tuple(sorted(queues)), rules=rules).start()
    for queue, reason, scope in closings:
        gates.close(client, queue, reason, scope=scope)
    closed = {queue for queue, _, scope in closings if scope in (gates.MESH, "node", "gpu0@node")}
    for queue, total in totals.items():
        client.hset("gpumesh:gated", queue, f"{total * 1e6:.0f}")
    world = _send(client, messages)
    while True:
        claimed = device.claim()
        assert not isinstance(claimed, claims.Refused)
        now = claimed_at(client, device.worker, claimed.tag) if claimed else float("inf")
        claimant = model.Claimant(
            fits={json.dumps(n) for n in NEEDS if n.get("memory_gb", 0) <= max_gb}, loaded=loaded, queues=device.queues
        )
        expected = model.choose(_heads(client, world), claimant, now=now, rules=rules, closed=closed, gated=totals)
        if claimed is None or expected is None:
            assert (claimed, expected) == (None, None)
            return
        assert claimed.tag == expected.uid.partition(" ")[2]
        del world[claimed.tag]
        device.ack(claimed.tag)


def _send(client: redis.Redis, messages: list[Sent]) -> dict[str, model.Group]:
    """The messages as a stranger pushes them, with their ages; tag → what the model knows of it."""
    seconds, micros = client.time()
    for order, sent in enumerate(messages):
        tag = new_tag()
        mesh = None if sent.stock else {"needs": sent.needs}
        # No two at the same µs: the scripts never run at the same time either.
        client.hset("gpumesh:again", tag, f"{(seconds - sent.age) * 1e6 + micros + order:.0f}\t0\t0")
        client.lpush(sent.queue + STEPS[sent.band], envelope(tag, mesh=mesh))
    return _world(client)


def _world(client: redis.Redis) -> dict[str, model.Group]:
    found = {}
    # Indexed in this order: by queue as consumed, by step, oldest first.
    order = 0
    for queue in sorted(GPU_QUEUES):
        for band, step in STEPS.items():
            for raw in reversed(client.lrange(queue + step, 0, -1)):
                data = json.loads(raw)
                tag, mesh = data["properties"]["delivery_tag"], data["headers"].get("mesh")
                needs = mesh["needs"] if mesh else {}
                order += 1
                found[tag] = model.Group(
                    queue=queue,
                    band=band if mesh else Band.NORMAL,
                    needs=json.dumps(needs),
                    model=needs.get("model"),
                    at=int(client.hget("gpumesh:again", tag).split("\t")[0]) / 1e6,
                    uid=f"{order:06d} {tag}",
                )
    return found


def _heads(client: redis.Redis, world: dict[str, model.Group]) -> list[model.Group]:
    return list(world.values())


class Ledger(RuleBasedStateMachine):
    """Everybody does everything in any order; each message is in one place at each moment."""

    client: redis.Redis

    @initialize()
    def begin(self):
        self.client.flushdb()
        self.devices = [Device(self.client, f"gpu{i}@node", max_gb).start() for i, max_gb in enumerate([8, 100])]
        self.sent, self.gone = [], []

    @rule(queue=st.sampled_from(GPU_QUEUES[:3]), band=st.sampled_from(list(Band)), needs=st.sampled_from(NEEDS))
    def publish(self, queue, band, needs):
        self.sent.append(new_tag())
        publish(self.client, queue, band, needs, self.sent[-1])

    @rule(
        queue=st.sampled_from(GPU_QUEUES[:3]),
        band=st.sampled_from(list(Band)),
        needs=st.sampled_from([None, *NEEDS]),
        sound=st.booleans(),
    )
    def push(self, queue, band, needs, sound):
        self.sent.append(new_tag() if sound else f"no tag {new_tag()}")
        mesh = None if needs is None else {"needs": needs}
        self.client.lpush(queue + STEPS[band], envelope(self.sent[-1], mesh=mesh))

    @rule(
        queue=st.sampled_from(GPU_QUEUES[:3]),
        band=st.sampled_from(list(Band)),
        how=st.sampled_from(["pop", "lrem", "del"]),
    )
    def stranger_takes(self, queue, band, how):
        name = queue + STEPS[band]
        raws = self.client.lrange(name, 0, -1)
        if not raws:
            return
        if how == "pop":
            raws = [self.client.rpop(name)]
        elif how == "lrem":
            raws = [raws[len(raws) // 2]]
            self.client.lrem(name, 1, raws[0])
        else:
            self.client.delete(name)
        self.gone += tags_in(raws)

    @rule(which=st.integers(0, 1))
    def claim(self, which):
        self.devices[which].claim()

    @rule(which=st.integers(0, 1), how=st.sampled_from(["ack", "requeue", "preempt", "bury"]))
    def let_go(self, which, how):
        device = self.devices[which]
        if not device.held:
            return
        tag = sorted(device.held)[0]
        device.held.discard(tag)
        if how == "ack":
            assert device.ack(tag)
            self.gone.append(tag)
        elif how == "bury":
            assert claims.bury(self.client, device.worker, tag, why="test")
        else:
            counts = how == "requeue"
            assert claims.hand_back(self.client, device.worker, tag, counts=counts, max_deliveries=MAX_DELIVERIES)

    @rule(which=st.integers(0, 1))
    def reap(self, which):
        device = self.devices[which]
        leases.reap(self.client, max_deliveries=MAX_DELIVERIES, worker=device.worker)
        device.held.clear()
        device.start()

    @invariant()
    def one_place_each(self):
        if not hasattr(self, "sent"):
            return
        held = [tag for device in self.devices for tag in device.held]
        fields = [name for device in self.devices for name in self.client.hkeys(f"gpumesh:claims:{device.worker}")]
        stored = [name for name in fields if name[0] not in "=+"]
        assert Counter(held) == Counter(stored)
        dead = tags_in(self.client.lrange("gpumesh:dead", 0, -1))
        assert Counter(waiting(self.client) + held + dead + self.gone) == Counter(self.sent)

    def teardown(self):
        """What is left can all be claimed: the index has healed."""
        if hasattr(self, "sent"):
            left = waiting(self.client)
            drained = Device(self.client, "gpu9@node").start().drain()
            assert Counter(drained) == Counter(tag for tag in left if not tag.startswith("no tag"))
            assert waiting(self.client) == []
            kept = self.client.keys("gpumesh:group:*") + self.client.keys("gpumesh:class*")
            assert kept == []


def test_no_message_is_lost_or_doubled(client: redis.Redis):
    """S3, whatever strangers do to the lists."""

    class Bound(Ledger):
        pass

    Bound.client = client
    run_state_machine_as_test(Bound, settings=settings(max_examples=30, stateful_step_count=30, deadline=None))
