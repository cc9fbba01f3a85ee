"""Waiting messages, journal and progress, as the store keeps them (DESIGN §2, §4)."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import redis
from sample_tasks import add

from gpu_mesh.domain.claim import Rules
from gpu_mesh.domain.queues import GPU_QUEUES
from gpu_mesh.settings import settings
from gpu_mesh.store import claims, journal, keys, leases, progress, queues
from gpu_mesh.store.client import connect
from gpu_mesh.store.scripts import script


@pytest.fixture
def client(broker: str) -> Iterator[redis.Redis]:
    with connect(settings()) as found:
        yield found


# Waiting messages


def test_depths_count_all_bands(client: redis.Redis):
    """DESIGN §4: a queue is its four lists; one without a message is 0."""
    for priority in (0, 3, 6, 9, 9):
        add.apply_async((1, 1), queue="ai-batch", priority=priority)
    assert queues.depths(client, GPU_QUEUES) == {**dict.fromkeys(GPU_QUEUES, 0), "ai-batch": 5}
    assert queues.depths(client, []) == {}


def test_waiting_in_the_order_they_are_taken(client: redis.Redis):
    """Q4: urgent bands first, the oldest first within one, also over several pages."""
    sent = {priority: [add.apply_async((i, 1), priority=priority).id for i in range(3)] for priority in (1, 9)}
    found = list(queues.waiting(client, "internal"))
    assert [message.id for message in found] == [*sent[9], *sent[1]]
    assert [message.position for message in found] == list(range(6))
    client.delete("internal")
    envelopes = [json.dumps({"headers": {"id": str(number)}}) for number in range(2 * queues.PAGE + 1)]
    client.lpush("revenue", *envelopes)
    assert [message.id for message in queues.waiting(client, "revenue")] == [str(n) for n in range(len(envelopes))]


@pytest.mark.parametrize("raw", ["", "no JSON", "5", "null", "[]", "{}", '{"headers": 3}', '{"headers": null}'])
def test_malformed_messages_are_listed(client: redis.Redis, raw: str):
    """DESIGN §5: whatever lies in a list, whoever looks at it sees it and the rest."""
    client.lpush("internal", raw, json.dumps({"headers": {"id": "sound"}}))
    assert next((message.id, message.raw) for message in queues.waiting(client, "internal")) == ("", raw)
    assert [message.id for message in queues.waiting(client, "internal")] == ["", "sound"]


def test_remove_takes_one_message_once(client: redis.Redis):
    """A message leaves its list once; of two that look alike the older goes."""
    client.lpush("internal:6", "a", "b", "a")
    first = next(iter(queues.waiting(client, "internal")))
    assert queues.remove(client, first)
    assert client.lrange("internal:6", 0, -1) == ["a", "b"]
    assert queues.remove(client, first)
    assert not queues.remove(client, first)


# Progress


def test_progress_counts_a_part_once(client: redis.Redis):
    """F1: a part that ran twice did its work once; what is told of a task is forgotten some day."""
    assert progress.add(client, "whole", "part 1", 100) == 100
    assert progress.add(client, "whole", "part 2", 50) == 150
    assert progress.add(client, "whole", "part 1", 100) == 150
    assert progress.add(client, "other", "part 1", 7) == 7
    assert 0 < int(client.ttl(keys.progress("whole"))) <= progress.KEPT_S


# Journal


def claimed(client: redis.Redis, worker: str, task_id: str, body: str = "") -> claims.Claimed:
    """A task sent and claimed by the worker."""
    headers = {"id": task_id, "task": "app.answer", "mesh": {"needs": {}, "priority": 7, "sent_at": 1.0}}
    raw = json.dumps({"body": body, "headers": headers, "properties": {"delivery_tag": task_id}})
    leases.renew(client, worker, 60.0, anew=True)
    script(client, "publish")(args=["customer:3", raw, "high", "{}", task_id, task_id, "normal"])
    number = client.hget("gpumesh:needs", "={}")
    claimant = claims.Claimant(
        worker, worker.partition("@")[2], GPU_QUEUES, frozenset(), frozenset([number]), *[frozenset()] * 3
    )
    reply = claims.read_reply(script(client, "look")(args=claims.claim_arguments(claimant, Rules())))
    assert isinstance(reply, claims.Claimed)
    return reply


@pytest.mark.parametrize("body", ["", "x" * 100_000])
def test_what_is_claimed_runs_longest_first(client: redis.Redis, body: str):
    """A1: with what its header says, whatever its size; nothing runs that nobody holds."""
    first, second = claimed(client, "gpu1@a", "one", body), claimed(client, "gpu0@a", "two", body)
    running = journal.running(client)
    assert [(entry["id"], entry["worker"]) for entry in running] == [("one", "gpu1@a"), ("two", "gpu0@a")]
    entry = running[0]
    assert (entry["name"], entry["queue"], entry["priority"], entry["state"]) == (
        *("app.answer", "customer", 7, "STARTED"),
    )
    assert (entry["sent_at"], entry["deliveries"], entry["siblings"], entry["standby"]) == (1.0, 1, [], None)
    assert entry["waited_s"] == pytest.approx(entry["started_at"] - 1.0)
    claims.ack(client, "gpu1@a", first.tag)
    leases.reap(client, worker="gpu0@a", max_deliveries=5)
    assert journal.running(client) == []
    assert second.tag == "two"


def test_finished_is_capped_newest_first(client: redis.Redis):
    """With the ack, in one step; an ack that came too late says nothing."""
    old = [json.dumps({"id": f"old {number}"}) for number in range(claims.JOURNAL_KEPT + 100)]
    client.lpush(keys.FINISHED, *old)
    done = claimed(client, "gpu0@a", "newest")
    for _ in range(2):
        claims.ack(client, "gpu0@a", done.tag, ended=claims.Ended(json.dumps({"id": "newest"})))
    assert client.llen(keys.FINISHED) == claims.JOURNAL_KEPT
    assert [found["id"] for found in journal.finished(client, 2)] == ["newest", f"old {len(old) - 1}"]
