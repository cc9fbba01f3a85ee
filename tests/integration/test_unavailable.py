"""Realtime AI work that nobody can do: `services.availability.tick`, driven by hand (SPEC R4; DESIGN §7)."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import redis
from celery import chord, states
from celery.exceptions import ChordError
from celery.result import AsyncResult
from click.testing import CliRunner
from sample_tasks import add, total

from gpu_mesh import app
from gpu_mesh.cli.root import root
from gpu_mesh.errors import ServiceUnavailable
from gpu_mesh.services import availability, lookup
from gpu_mesh.settings import Settings, settings
from gpu_mesh.store import availability as store
from gpu_mesh.store import cordons, gates, keys, leases, server
from gpu_mesh.store.client import connect
from gpu_mesh.tasks import control

pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")

#: Long enough that no test outlives it, s.
TTL_S = 3600.0
WORDS = "AI service temporarily unavailable"


class World:
    """A mesh whose clock the test moves."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.now = server.now(client)

    def join(self, worker: str = "gpu0@n1") -> None:
        leases.renew(self.client, worker, TTL_S, anew=True)

    def die(self, worker: str = "gpu0@n1") -> None:
        self.client.zrem(keys.LEASES, worker)

    def tick(self, seconds: float = 5.0) -> None:
        self.now += seconds
        availability.tick(app, self.client, settings(), self.now)

    def ticks(self, count: int = 4) -> None:
        for _ in range(count):
            self.tick()


@pytest.fixture
def world(broker: str) -> Iterator[World]:
    """A device was there, and is not any more."""
    app.__dict__.pop("_notices", None)
    app._checked_at = float("-inf")
    with connect(settings()) as client:
        found = World(client)
        found.join()
        found.tick()
        found.die()
        yield found
    app.__dict__.pop("_notices", None)


def ask() -> AsyncResult:
    """A sender's task, as one that looks for the broker now."""
    app._checked_at = float("-inf")
    return add.apply_async((1, 1), queue="ai-realtime")


def test_after_a_while_what_waits_fails_and_submits_are_refused(world: World):
    """R4: not before 15 s, a rolling restart is shorter; the words are those of the spec; other queues go on."""
    waiting = [ask() for _ in range(110)]
    others = [add.apply_async((1, 1), queue=queue) for queue in ("revenue", "ai-batch", "rfa-reminders")]
    world.ticks(2)
    assert ask().state == states.PENDING
    world.ticks(2)
    for sent in waiting:
        with pytest.raises(ServiceUnavailable, match=f"^{WORDS}$"):
            sent.get(1)
    with pytest.raises(ServiceUnavailable, match=f"^{WORDS}$") as refused:
        ask()
    assert refused.value.reason == "no device is there"
    assert [task.id for task in lookup.waiting_tasks(settings())] == [sent.id for sent in others]
    add.apply_async((1, 1), queue="customer")
    later = add.apply_async((1, 1), queue="ai-realtime", countdown=600)
    world.tick()
    assert later.state == states.PENDING


def test_a_device_that_is_back_is_used_at_once(world: World):
    """R4: by the next look, and before it by the worker itself, which begins its lease."""
    world.ticks()
    with pytest.raises(ServiceUnavailable):
        ask()
    world.join()
    world.tick()
    assert ask().state == states.PENDING
    world.die()
    world.ticks(5)
    with pytest.raises(ServiceUnavailable):
        ask()
    assert store.back(world.client)
    app._checked_at = float("inf")  # the sender need not wait for its next look
    assert add.apply_async((1, 1), queue="ai-realtime").state == states.PENDING


def test_whoever_waits_for_more_hears_of_it(world: World):
    """R4: chords end, error callbacks run, a task without a result gets none; a stock producer's fails too."""
    body = chord([add.s(1, 1).set(queue="ai-realtime"), add.s(2, 2).set(queue="ai-realtime")], total.s())()
    called = add.apply_async((1, 1), queue="ai-realtime", link_error=total.si([1]).set(queue="customer"))
    wrong = add.apply_async((1, 1), queue="ai-realtime", link_error=total.si([1]).set(queue="no-such-queue"))
    silent = add.apply_async((1, 1), queue="ai-realtime", ignore_result=True)
    sent = add.apply_async((1, 1), queue="ai-realtime")
    raw = json.loads(world.client.lindex("ai-realtime:6", 0))
    raw["headers"] |= {"id": "of-a-stock-producer", "mesh": None}
    world.client.lpush("ai-realtime:9", json.dumps(raw), "no json", json.dumps({"headers": {"id": "bodiless"}}))
    world.ticks()
    with pytest.raises(ChordError, match=WORDS):
        AsyncResult(body.id, app=app).get(1)
    for task in (called.id, wrong.id, sent.id, "of-a-stock-producer", "bodiless"):
        assert AsyncResult(task, app=app).state == states.FAILURE
    assert silent.state == states.PENDING
    assert [task.queue for task in lookup.waiting_tasks(settings())] == ["customer"]
    assert not world.client.exists(keys.REFUSED)


@pytest.mark.parametrize("gap", [8.0, 600.0, -600.0])
def test_nothing_fails_because_nobody_looked(world: World, gap: float):
    """R4: Redis or the control worker was away, or the clock jumped: devices have as long to come back as ever."""
    sent = ask()
    world.ticks(2)
    world.tick(gap)
    world.ticks(2)
    assert sent.state == states.PENDING
    assert store.outage(world.client) is None
    world.ticks(2)
    assert sent.state == states.FAILURE


def test_a_redis_that_was_away_ends_no_lease(world: World):
    """DESIGN §6: while nobody could renew, nobody can tell who is dead."""
    world.client.zadd(keys.LEASES, {"gpu0@n1": 1.0})
    world.client.set(keys.GRACE, str(int((world.now + 100) * 1e6)))
    assert leases.living(world.client) == ["gpu0@n1"]
    world.client.delete(keys.GRACE)
    assert leases.living(world.client) == []


class TestWhoIsThere:
    def test_a_pause_by_hand_fails_nothing(self, world: World):
        """R4: whoever paused it knows."""
        sent = ask()
        gates.close(world.client, "ai-realtime", "manual")
        world.ticks()
        assert sent.state == states.PENDING

    def test_a_device_behind_a_gate_is_there(self, world: World):
        """R4: a busy device, a window, a pause of a node: it will take it."""
        world.join()
        gates.close(world.client, "ai-realtime", "manual", scope="n1")
        gates.close(world.client, "ai-realtime", "window")
        assert availability.nobody(world.client) is None

    def test_what_makes_a_device_useless(self, world: World):
        """R4: cordoned, or its engine silent; CPU workers count for nothing."""
        world.join("cpu@n1")
        world.join("control@n1")
        assert availability.nobody(world.client) == "no device is there"
        world.join("gpu0@n1")
        world.join("gpu0@n2")
        cordons.cordon(world.client, "n1", "drain", why="repairs")
        assert availability.nobody(world.client) is None
        cordons.cordon(world.client, "gpu0@n2", "drain", why="repairs")
        assert availability.nobody(world.client) == "every device is cordoned"
        cordons.lift(world.client, "n1", "drain")
        assert availability.nobody(world.client) is None
        gates.close(world.client, "ai-realtime", "health", scope="gpu0@n1")
        assert availability.nobody(world.client) == "no device's engine answers"


class TestLookers:
    def test_one_that_dies_is_followed(self, world: World):
        """DESIGN §9: what it had taken out of the queue fails all the same, also once devices are back; its notice
        expires."""
        sent = ask()
        world.ticks(3)
        assert 0 < world.client.pttl(keys.OUTAGE) <= availability.NOTICE_S * 1000
        late = _sent_past_the_refusal()
        assert store.set_aside(world.client, "ai-realtime") == 1
        world.join()
        world.tick()
        assert (sent.state, late.state) == (states.FAILURE, states.FAILURE)

    def test_only_one_works(self, world: World):
        """Two control workers: error callbacks run once."""
        world.ticks(2)
        with store.alone(world.client) as mine:
            assert mine
            world.ticks(4)
        assert store.outage(world.client) is None

    def test_a_task_fails_it(self, world: World):
        """`mesh.availability`, which the keeper sends."""
        world.join()
        store.tell(world.client, store.Outage(1.0, "it was so"), 60.0)
        control.availability.run()
        assert store.outage(world.client) is None

    def test_a_long_backlog_begins_no_watch_anew(self):
        """R4: a look that fails as much as it may, and the next one, come soon enough even for the least patience."""
        least = Settings(unavailable_after_s=15).unavailable_after_s
        with pytest.raises(ValueError, match="unavailable_after_s"):
            Settings(unavailable_after_s=14.9)
        assert least / 2 > availability.EVERY_S + availability.WORK_S
        assert availability.NOTICE_S > 2 * availability.EVERY_S + availability.WORK_S

    def test_what_is_unreadable_stops_no_look(self, world: World):
        """STYLE: another version's."""
        world.client.set(keys.WATCH, "[]")
        world.client.set(keys.OUTAGE, '{"since": "x"}')
        world.tick()
        assert store.outage(world.client) is None


def _sent_past_the_refusal() -> AsyncResult:
    """As a stock producer, or a job: nobody asks whether there is somebody."""
    app._checked_at = float("inf")
    app._notices.outage = None
    return add.apply_async((1, 1), queue="ai-realtime")


def test_queues_say_it(world: World):
    """Issue 5 §7: what `gpu-mesh queues` shows."""
    world.ticks()
    told = CliRunner().invoke(root, ["queues", "--json"])
    (found,) = (queue for queue in json.loads(told.stdout) if queue["name"] == "ai-realtime")
    assert found["closed"].startswith("unavailable since ")
    assert found["closed"].endswith("(no device is there)")


def test_what_is_no_message_keeps_nobody_from_being_told(world: World):
    """R4, DESIGN §9: it goes to the dead letters, also bytes that are no text."""
    strange = [b"\xff{", b"", b"{", b'{"headers": {"id": 5}}', b'{"headers": {"id": null}}']
    world.client.lpush("ai-realtime", *strange)
    waiting = ask()
    world.ticks()
    with pytest.raises(ServiceUnavailable):
        waiting.get(1)
    assert world.client.llen(keys.REFUSED) == world.client.llen("ai-realtime") == 0
    kept = [entry.partition("\n")[2] for entry in world.client.lrange(keys.DEAD, 0, -1)]
    assert sorted(kept) == sorted(raw.decode(errors="surrogateescape") for raw in strange)
    shown = CliRunner().invoke(root, ["dead", "list"])
    assert shown.exit_code == 0
    assert shown.output.count("malformed-") == len(strange)
