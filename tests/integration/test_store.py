"""Waiting messages, journal and progress, as the store keeps them (DESIGN §2, §4)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis_servers import LOOPBACK, free_port
from sample_tasks import add

from gpu_mesh.domain.queues import GPU_QUEUES
from gpu_mesh.settings import settings
from gpu_mesh.store import journal, keys, progress, queues
from gpu_mesh.store.client import connect


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


def entry(task_id: str, worker: str = "gpu0@a", started_at: float = 1.0) -> dict[str, Any]:
    return {"id": task_id, "worker": worker, "state": "STARTED", "started_at": started_at}


def test_running_longest_first(client: redis.Redis):
    """A worker of CPU queues runs several at once: none hides another (SPEC Q6)."""
    journal.task_started(client, entry("second", "cpu@a", 2.0))
    journal.task_started(client, entry("first", "cpu@a", 1.0))
    journal.task_finished(client, {**entry("second", "cpu@a", 2.0), "state": "SUCCESS"})
    assert [found["id"] for found in journal.running(client)] == ["first"]
    journal.task_left(client, "first")
    assert journal.running(client) == []
    assert [found["id"] for found in journal.finished(client)] == ["second"]


def test_a_worker_that_starts_runs_nothing(client: redis.Redis):
    """What its predecessor left is gone, what others run stays."""
    for task_id, worker in (("left", "gpu0@a"), ("other", "gpu1@a")):
        journal.task_started(client, entry(task_id, worker))
    journal.clear_running(client, "gpu0@a")
    journal.clear_running(client, "gpu0@a")
    assert [found["id"] for found in journal.running(client)] == ["other"]


def test_lost_runs(client: redis.Redis):
    """A run whose process is gone ends in the journal, with its time; one that never ran does not appear."""
    journal.task_started(client, entry("killed", started_at=10.0))
    journal.task_lost(client, "killed", "FAILURE", 12.5)
    journal.task_lost(client, "never ran", "REVOKED", 12.5)
    (found,) = journal.finished(client)
    assert (found["id"], found["state"], found["ran_s"]) == ("killed", "FAILURE", 2.5)
    assert journal.running(client) == []


def test_finished_is_capped_newest_first(client: redis.Redis):
    client.lpush(keys.FINISHED, *(json.dumps(entry(f"old {number}")) for number in range(journal.KEPT)))
    journal.task_finished(client, entry("newest"))
    assert client.llen(keys.FINISHED) == journal.KEPT
    assert [found["id"] for found in journal.finished(client, 2)] == ["newest", f"old {journal.KEPT - 1}"]


#: A run of a task as a worker's child does it, with a broker that is not there.
RUN_WITHOUT_REDIS = """
from celery.app.trace import build_tracer
from gpu_mesh import app
app.conf.update(result_backend="cache+memory://")
app.loader.import_default_modules()
task = app.tasks["sample_tasks.add"]
request = {"id": "an-id", "hostname": "gpu0@a", "delivery_info": {"routing_key": "internal"}, "is_eager": False}
print(build_tracer(task.name, task, app=app)("an-id", (2, 3), {}, request).retval)
"""


def test_journal_costs_no_job():
    """Issue 2 §10: a Redis that is away when a job begins and ends costs entries in a table, not the job."""
    started = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-c", RUN_WITHOUT_REDIS],
        env={**os.environ, "GPU_MESH_BROKER_URL": f"redis://{LOOPBACK}:{free_port()}/0"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert ran.stdout.strip() == "5"
    assert ran.stderr.count("journal entry lost") == 2
    assert time.monotonic() - started < 10
