"""Purging and moving what waits (issue 3 §12)."""

from __future__ import annotations

import base64
import json
import time

import pytest
import redis
from celery import chord, states
from celery.exceptions import ChordError, TaskRevokedError
from celery.result import AsyncResult
from sample_tasks import add, note, total
from two_gpus import lists

from gpu_mesh import app
from gpu_mesh.errors import InvalidTask, UnknownQueue
from gpu_mesh.services import lookup, queue_care
from gpu_mesh.services.queue_care import Counts
from gpu_mesh.settings import settings
from gpu_mesh.store import claims, keys, moving
from gpu_mesh.store.client import connect
from gpu_mesh.store.scripts import script

# Celery's result backend writes with a command that redis-py calls deprecated; here this process writes results.
pytestmark = [
    pytest.mark.usefixtures("broker"),
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),
]


def client() -> redis.Redis:
    return connect(settings())


def envelopes(name: str) -> list[dict]:
    """What a list holds, the oldest first."""
    with client() as held:
        return [json.loads(raw) for raw in reversed(held.lrange(name, 0, -1))]


class TestPurge:
    def test_everything_of_the_queue_ends_as_revoked(self):
        """Who waits for one of them hears of it; other queues keep theirs."""
        waiting = [add.apply_async((n, n), priority=n % 11) for n in range(30)]
        delayed = add.apply_async((1, 1), countdown=600)
        others = [add.apply_async((1, 1), business="revenue"), add.apply_async((1, 1), queue="customer", countdown=600)]
        assert queue_care.count(settings(), "internal") == Counts(30, 1)
        seen: list[int] = []
        assert queue_care.purge(app, settings(), "internal", seen.append) == 31
        assert seen[-1] == 31
        for sent in (*waiting, delayed):
            with pytest.raises(TaskRevokedError, match="cancelled"):
                sent.get(1)
        assert [task.id for task in lookup.waiting_tasks(settings())] == [sent.id for sent in others]
        assert [sent.state for sent in others] == [states.PENDING] * 2
        with client() as held:
            assert not held.exists(keys.PURGED)

    def test_a_chord_whose_part_is_purged_ends(self):
        """Nobody waits for ever: neither for a part nor for what follows."""
        body = chord([add.s(1, 1), add.s(2, 2)], total.s())()
        queue_care.purge(app, settings(), "internal")
        with pytest.raises(ChordError, match="cancelled"):
            AsyncResult(body.id, app=app).get(1)

    def test_malformed_messages_go_too(self):
        """They are dropped; what has an id but no body is revoked."""
        bodiless = json.dumps({"headers": {"id": "bodiless"}, "properties": {}})
        with client() as held:
            held.lpush("internal:6", "no json", "[" * 10_000, "[]", bodiless)
        assert queue_care.purge(app, settings(), "internal") == 4
        assert lists() == {}
        assert AsyncResult("bodiless", app=app).state == states.REVOKED

    def test_a_task_without_a_result_gets_none(self):
        """As a worker would have it."""
        sent = note.delay("nowhere", "x")
        assert queue_care.purge(app, settings(), "internal") == 1
        assert AsyncResult(sent.id, app=app).state == states.PENDING

    def test_an_interrupted_purge_is_ended_by_the_next(self):
        """Killed after a message left its list and before it was marked: the next purge of any queue marks it."""
        sent = add.delay(1, 1)
        with client() as held:
            assert next(iter(moving.set_aside(held, "internal"))) == 1
        assert lists() == {}
        assert sent.state == states.PENDING
        assert queue_care.purge(app, settings(), "customer") == 0
        assert sent.state == states.REVOKED

    def test_an_unknown_queue_is_refused(self):
        """The error lists the known ones."""
        with pytest.raises(UnknownQueue, match="revenue, customer, ai-realtime"):
            queue_care.purge(app, settings(), "urgent")


class TestMove:
    def test_order_bands_and_envelopes(self):
        """The lists keep their steps and order; class and routing key are the new queue's, bodies are untouched."""
        sent = [add.apply_async((n, 1), priority=n % 11, memory_gb=3) for n in range(22)]
        before = {name: envelopes(name) for name in ("internal", "internal:3", "internal:6", "internal:9")}
        assert queue_care.move(settings(), "internal", "customer") == len(sent)
        assert queue_care.count(settings(), "internal") == Counts(0, 0)
        for name, envelopes_before in before.items():
            after = envelopes(name.replace("internal", "customer"))
            assert [e["headers"]["id"] for e in after] == [e["headers"]["id"] for e in envelopes_before]
            for old, new in zip(envelopes_before, after, strict=True):
                assert new["body"] == old["body"]
                assert new["headers"]["mesh"] == {**old["headers"]["mesh"], "class": "customer"}
                assert new["properties"]["delivery_info"] == {"exchange": "", "routing_key": "customer"}
                old["headers"]["mesh"] = new["headers"]["mesh"]
                old["properties"]["delivery_info"] = new["properties"]["delivery_info"]
                assert new == old

    def test_age_is_kept(self):
        """A claim sees when it was sent, not when it was moved; a sender's clock that runs ahead gains nothing."""
        old, ahead = add.delay(1, 1), add.delay(2, 2)
        with client() as held:
            raws = held.lrange("internal:6", 0, -1)
            now = float(held.time()[0])
            stamps = {old.id: now - 900.0, ahead.id: now + 900.0}
            held.delete("internal:6", f"{keys.PREFIX}list:internal:6")
            for envelope in map(json.loads, reversed(raws)):
                envelope["headers"]["mesh"]["sent_at"] = stamps[envelope["headers"]["id"]]
                held.lpush("internal:6", json.dumps(envelope))
            assert queue_care.move(settings(), "internal", "ai-batch") == 2
            tags = {e["headers"]["id"]: e["properties"]["delivery_tag"] for e in envelopes("ai-batch:6")}
            ages = {
                task_id: float(held.hget("gpumesh:again", tag).split("\t")[0]) / 1e6 for task_id, tag in tags.items()
            }
        assert ages[old.id] == pytest.approx(now - 900.0, abs=0.01)
        assert now <= ages[ahead.id] <= now + 10

    def test_limit_takes_the_most_urgent_and_oldest(self):
        """What is left stays as it was."""
        low, first, second, critical = (add.apply_async((1, 1), priority=p) for p in (0, 5, 5, 10))
        assert queue_care.move(settings(), "internal", "customer", 2) == 2
        waiting = [(task.queue, task.id) for task in lookup.waiting_tasks(settings())]
        assert waiting == [
            ("customer", critical.id),
            ("customer", first.id),
            ("internal", second.id),
            ("internal", low.id),
        ]

    def test_delayed_ones_stay_delayed(self):
        """They join the new queue when they are due."""
        sent = add.apply_async((1, 1), countdown=600, priority=8)
        kept = add.apply_async((1, 1), countdown=600, business="revenue")
        assert queue_care.move(settings(), "internal", "customer") == 1
        with client() as held:
            (task, other) = sorted(held.hvals(keys.LATER))
            held.zadd(keys.DELAYED, dict.fromkeys(held.zrange(keys.DELAYED, 0, -1), time.time() - 1))
            assert claims.promote(held) == 2
        assert task.startswith("customer\n")
        assert other.startswith("revenue:6\n")
        assert [(t.queue, t.id) for t in lookup.waiting_tasks(settings())] == [
            ("revenue", kept.id),
            ("customer", sent.id),
        ]

    def test_malformed_messages_stay(self):
        """Also at the old end, where they come first, and however many there are."""
        with client() as held:
            held.lpush("internal:6", *["no json"] * (moving.PAGE + 5), "{}", '{"headers": [], "properties": {}}')
        sent = [add.delay(n, n) for n in range(5)]
        assert queue_care.move(settings(), "internal", "customer", 4) == 4
        assert queue_care.move(settings(), "internal", "customer") == 1
        assert lists() == {"internal:6": moving.PAGE + 7, "customer:6": 5}
        assert [e["headers"]["id"] for e in envelopes("customer:6")] == [s.id for s in sent]

    def test_what_a_worker_took_meanwhile_is_not_moved(self):
        """One step: out of the one list and into the other, or neither."""
        add.delay(1, 1)
        with client() as held:
            raw = held.lindex("internal:6", 0)
            text, tag, sent_at = moving.readdressed(raw, "customer")
            held.rpop("internal:6")
            args = ["internal:6", raw, "customer:6", text, tag, sent_at]
            assert script(held, "move")(args=args) == 0
        assert lists() == {}

    @pytest.mark.parametrize(("queue", "to"), [("urgent", "customer"), ("customer", "urgent")])
    def test_an_unknown_queue_is_refused(self, queue: str, to: str):
        """Either side; the error lists the known ones."""
        with pytest.raises(UnknownQueue, match="'urgent': one of revenue, customer"):
            queue_care.move(settings(), queue, to)

    def test_a_move_to_itself_is_refused(self):
        """It would turn for ever."""
        with pytest.raises(InvalidTask, match="another queue"):
            queue_care.move(settings(), "internal", "internal")


@pytest.mark.parametrize(
    "sent_at", [float("nan"), float("inf"), -1, True, "yesterday", None, 10**400], ids=lambda value: repr(value)[:12]
)
def test_a_hostile_stamp_is_none(sent_at: object):
    """A header's wrong time is no age; the message goes along."""
    properties = {"delivery_tag": "t", "delivery_info": {"exchange": "internal", "routing_key": "internal"}}
    raw = json.dumps({"headers": {"mesh": {"sent_at": sent_at}}, "properties": properties, "body": ""})
    text, tag, stamp = moving.readdressed(raw, "customer")
    assert (tag, stamp) == ("t", "")
    assert json.loads(text)["properties"]["delivery_info"] == {"exchange": "customer", "routing_key": "customer"}


def test_to_a_cpu_queue():
    """Allowed; arguments are as they were."""
    add.delay(7, [None, "ü", 10**40, 0.1])
    queue_care.move(settings(), "internal", "rfa-reminders")
    (envelope,) = envelopes("rfa-reminders:6")
    assert json.loads(base64.b64decode(envelope["body"]))[0] == [7, [None, "ü", 10**40, 0.1]]
    assert envelope["headers"]["mesh"]["class"] == "rfa-reminders"
