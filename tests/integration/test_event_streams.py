"""Server-sent events of an API process, over real sockets: what tasks say, what happens (issue 7 §1)."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
import redis
from celery import states
from listening_clients import Listener
from rest import api
from waiting import wait_for

from gpu_mesh import app
from gpu_mesh.services import gates
from gpu_mesh.settings import settings
from gpu_mesh.store import streams
from gpu_mesh.store.client import connect

#: More than FastAPI's pool of threads has, several times.
STREAMS = 200


@pytest.fixture(scope="module")
def client(empty_redis: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with api(tmp_path_factory.mktemp("api"), {"GPU_MESH_API_MAX_STREAMS": str(STREAMS)}) as found:
        yield found


@pytest.fixture
def store(broker: str) -> Iterator[redis.Redis]:
    with connect(settings()) as found:
        yield found


Say = Callable[..., int]


@pytest.fixture
def say(store: redis.Redis) -> Say:
    """Adds a piece to a task's stream; the run's number."""

    def say(task: str, text: str = "", *, run: int = 0, at: int = 0, thinking: str = "") -> int:
        return streams.add(
            store, task, run=run, at=at, text=text, thinking=thinking, claim={}, max_bytes=1000, expires_s=60
        )

    return say


def end(task: str, result: Any, state: str = states.SUCCESS) -> None:
    app.backend.store_result(task, result, state)


def finish(store: redis.Redis, task: str, run: int, at: int) -> None:
    streams.end(store, task, run=run, at=at, state=states.SUCCESS, keep_text=False, expires_s=60)


def test_a_task_as_it_speaks(client: httpx.Client, store: redis.Redis, say: Say):
    """Pieces as they come, the thinking beside them, and the end with the result."""
    run = say("t1")
    with Listener(client, "/tasks/t1/stream") as listener:
        say("t1", "Hel", run=run, thinking="hm")
        (first,) = listener.until("piece")
        assert first == {"text": "Hel", "thinking": "hm"}
        say("t1", "lo", run=run, at=5)
        assert listener.until("piece")[-1] == {"text": "lo", "thinking": ""}
        end("t1", {"text": "Hello", "thinking": "hm"})
        finish(store, "t1", run, 7)
        (done,) = listener
        assert (done.event, done["state"], done["result"]["text"]) == ("done", "SUCCESS", "Hello")
    assert client.get("/tasks/t1/stream", headers={"Last-Event-ID": done.id or ""}).status_code == 204


def test_who_comes_back_goes_on(client: httpx.Client, store: redis.Redis, say: Say):
    """Behind the last event it has, with what the stream let go from the result."""
    run = say("t1")
    say("t1", "one ", run=run)
    with Listener(client, "/tasks/t1/stream") as listener:
        last = listener.until("piece")[-1].id
    say("t1", "two ", run=run, at=4)
    with Listener(client, "/tasks/t1/stream", last) as listener:
        (second,) = listener.until("piece")
        assert second["text"] == "two "
    end("t1", {"text": "one two three"})
    finish(store, "t1", run, 13)
    with Listener(client, "/tasks/t1/stream", second.id) as listener:
        assert [heard.get("text") for heard in listener] == ["three", None]
    with Listener(client, "/tasks/t1/stream", last) as listener:
        assert [heard.get("text") for heard in listener] == ["two three", None]


def test_a_run_that_is_lost(client: httpx.Client, say: Say):
    """The client is told to forget what it has."""
    say("t1", "old", run=say("t1"))
    with Listener(client, "/tasks/t1/stream") as listener:
        listener.until("piece")
        say("t1", "new", run=say("t1"))
        assert [heard.event for heard in listener.until("piece")] == ["restart", "piece"]


def test_one_that_has_ended(client: httpx.Client, store: redis.Redis):
    """All of it at once; its error by its class; what JSON has not is null."""
    app.backend.store_result("good", {"text": "all", "score": float("nan")}, states.SUCCESS)
    app.backend.store_result("bad", ValueError("no"), states.FAILURE)
    with Listener(client, "/tasks/good/stream") as listener:
        piece, done = listener
    assert (piece["text"], done.event, done["result"]["score"]) == ("all", "done", None)
    with Listener(client, "/tasks/bad/stream") as listener:
        (error,) = listener
    assert (error.event, error) == ("error", {"type": "ValueError", "message": "no", "state": "FAILURE"})


def test_how_far_it_is(client: httpx.Client, store: redis.Redis):
    """By the task's own account, each step once; then a result that says nothing."""
    end("t1", {"done": 1, "total": 4}, "PROGRESS")
    with Listener(client, "/tasks/t1/stream") as listener:
        assert listener.until("progress") == [{"done": 1, "total": 4}]
        end("t1", {"done": 2, "total": 4}, "PROGRESS")
        assert listener.until("progress") == [{"done": 2, "total": 4}]
        end("t1", [7])
        (done,) = listener
    assert done == {"state": "SUCCESS", "result": [7]}


def test_what_is_refused(client: httpx.Client, store: redis.Redis, say: Say):
    """Before any event, as a problem that names the field."""
    say("t1")
    asked: list[tuple[str, dict[str, str], int, str]] = [
        ("/tasks/none/stream", {}, 404, "task_id"),
        ("/tasks/t1/stream", {"Last-Event-ID": "junk"}, 422, "Last-Event-ID"),
        ("/events?types=task,junk", {}, 422, "types"),
        ("/events?queue=junk", {}, 422, "queue"),
    ]
    for path, headers, status, field in asked:
        answer = client.get(path, headers=headers)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (status, field)


def test_many_at_once(client: httpx.Client, store: redis.Redis, say: Say):
    """Each hears its task, others are answered, one too many is refused, and one that hangs up makes room at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 1024)), hard))
    run = say("t1")
    with ExitStack() as stack:
        opened = [stack.enter_context(Listener(client, "/tasks/t1/stream")) for _ in range(STREAMS)]
        assert {listener.status for listener in opened} == {200}
        refused = client.get("/tasks/t1/stream")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        say("t1", "hello", run=run)
        assert {listener.until("piece")[-1]["text"] for listener in opened} == {"hello"}
        assert client.get("/ready").status_code in (200, 503)

        def status() -> int:
            with Listener(client, "/tasks/t1/stream") as another:
                return another.status

        assert status() == 503
        opened[0].close()
        wait_for(lambda: status() == 200, "room for another one", 5)


def test_what_happens(client: httpx.Client, store: redis.Redis):
    """Celery's events and the mesh's, to who asked for them, with nothing of what is in a task."""
    with Listener(client, "/events") as everything, Listener(client, "/events?types=queue") as queues:
        everything.until("mesh.connected")
        queues.until("mesh.connected")
        with app.connection_for_write() as connection, app.events.Dispatcher(connection, hostname="gpu0@n1") as sender:
            sender.send("task-sent", uuid="t1", name="train", queue="ai-batch", args="s3cret")
            sender.send("task-started", uuid="t1")
            sender.send("task-retried", uuid="t1", exception="Preempted('ai-realtime work waits')")
        heard = everything.until("task.preempted")
        assert [event["type"] for event in heard] == ["task.sent", "task.started", "task.preempted"]
        assert [(event["worker"], event["queue"]) for event in heard] == [
            (None, "ai-batch"),
            ("gpu0@n1", "ai-batch"),
            ("gpu0@n1", "ai-batch"),
        ]
        assert "s3cret" not in json.dumps(heard)
        gates.pause(settings(), "ai-batch", by="ann")
        (paused,) = queues.until("queue.paused")
        assert (paused["queue"], paused["reason"], paused["by"]) == ("ai-batch", "manual", "ann")
        last = paused.id
    gates.resume(settings(), "ai-batch", by="ann")
    with Listener(client, "/events?types=queue", last) as queues:
        assert queues.until("queue.resumed")[-1]["queue"] == "ai-batch"
