"""A broker that is down, refuses, freezes or is full at a submit (issue 2, Bad input; SPEC N4, F1)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import gpu_mesh
from redis_servers import LOOPBACK, RedisServer, free_port, running
from submitter import Submitter, submitter
from waiting import wait_for

#: A submit's limit in these tests, s.
LIMIT_S = 0.6
#: For a machine that is busy with other things, s.
SLACK_S = 4.0
PASSWORD = "secret-word"
#: How long Redis is away in the middle of a job, s.
OUTAGE_S = 3.0


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running(RedisServer(tmp_path_factory.mktemp("r"), password=PASSWORD)) as found:
        yield found


def application(url: str, limit_s: float = LIMIT_S) -> Any:
    return submitter({"GPU_MESH_BROKER_URL": url, "GPU_MESH_SUBMIT_TIMEOUT_S": str(limit_s)})


@pytest.fixture
def sender(server: RedisServer) -> Iterator[Submitter]:
    with application(server.url) as found:
        yield found


def check_lost(answer: dict[str, Any], port: int) -> None:
    """It says where and what to do, holds no password, and is what stock callers catch as well."""
    assert answer.get("error") == "BrokerLost", answer
    assert {"BrokerUnavailable", "MeshError", "OperationalError"} <= set(answer["bases"])
    assert f"redis://:***@{LOOPBACK}:{port}/0" in answer["message"]
    assert PASSWORD not in answer["message"]
    # Not in what the user's terminal shows of the chain of causes either.
    assert PASSWORD not in answer["trace"]


def test_down_from_the_start():
    """Issue 2, Bad input: a bounded wait, then an error that says which address."""
    port = free_port()
    with application(f"redis://:{PASSWORD}@{LOOPBACK}:{port}/0") as sender:
        answer = sender.ask("send")
    check_lost(answer, port)
    assert "is it running, and reachable from here?" in answer["message"]
    assert answer["took_s"] < LIMIT_S + SLACK_S


def test_down_and_back(server: RedisServer, sender: Submitter):
    """N4: the same process sends again once the broker is back, its worker reconnects, and the result is read."""
    with application(server.url) as worker:
        assert worker.ask("work")["value"]
        before = sender.ask("send")
        assert sender.ask("get", id=before["value"])["value"] == 5
        server.stop()
        for _ in range(2):
            answer = sender.ask("send")
            check_lost(answer, server.port)
            assert answer["took_s"] < LIMIT_S + SLACK_S
        server.start()
        after = sender.ask("send")
        assert "value" in after, after
        assert sender.ask("get", id=after["value"]).get("value") == 5
        assert sender.ask("get", id=before["value"]).get("value") == 5


def test_a_job_that_ends_in_an_outage(server: RedisServer, sender: Submitter, tmp_path: Path):
    """F1, S3: the result and what the job sends on wait for Redis; no link of a chain is lost."""
    held, sent, following, log = (tmp_path / name for name in ("held", "sent", "following", "log"))
    env = {"GPU_MESH_BROKER_URL": server.url, "GPU_MESH_INCLUDE": "sample_tasks,canvas_tasks"}
    with gpu_mesh("worker", "--devices", "fake:A40:40", log=log, ready="test-node ready", env=env) as node:
        last = sender.ask("chain", path=str(held), sent=str(sent), next=str(following))
        wait_for(held.exists, "the first link to run")
        server.stop()
        held.unlink()
        # The outage itself: longer than a submit would try.
        threading.Event().wait(OUTAGE_S)
        server.start()
        assert wait_for(lambda: following.exists() and following.read_text(), "the second link") == "done"
        assert wait_for(lambda: sent.exists() and sent.read_text(), "the task that the job sent") == "sent"
        assert "error" not in sender.ask("get", id=last["value"])
        node.kill()


def test_wrong_password(server: RedisServer):
    """Issue 2, Bad input: BrokerDenied, which is BrokerRefused and BrokerLost, and names no password."""
    with application(server.url.replace(PASSWORD, "wrong-word")) as sender:
        answer = sender.ask("send")
    assert answer.get("error") == "BrokerDenied", answer
    assert {"BrokerRefused", "BrokerLost", "OperationalError"} <= set(answer["bases"])
    assert "Check user and password in GPU_MESH_BROKER_URL" in answer["message"]
    assert f"{LOOPBACK}:{server.port}" in answer["message"]
    assert "wrong-word" not in answer["message"]
    assert answer["took_s"] < LIMIT_S + SLACK_S


def test_frozen_before_a_submit(server: RedisServer, sender: Submitter):
    """A Redis that accepts and never answers costs a submit its limit, no more."""
    with server.frozen():
        answer = sender.ask("send")
        check_lost(answer, server.port)
        assert LIMIT_S <= answer["took_s"] < LIMIT_S + SLACK_S
    assert "value" in sender.ask("send")


def test_frozen_under_a_submit(server: RedisServer):
    """One that freezes right after it was seen alive costs the wait for an answer and for a second connection."""
    limit_s = 1.0
    with application(server.url, limit_s) as sender:
        assert "value" in sender.ask("send")
        with server.frozen():
            answer = sender.ask("send")
            check_lost(answer, server.port)
            assert answer["took_s"] < 3 * limit_s + SLACK_S / 2
            # From here on it is known.
            again = sender.ask("send")
            check_lost(again, server.port)
            assert again["took_s"] < limit_s + SLACK_S
        assert "value" in sender.ask("send")


def test_full(server: RedisServer, sender: Submitter):
    """DESIGN §9: a full Redis refuses the task, and says so; with room again the same process goes on."""
    with server.client() as admin:
        admin.config_set("maxmemory-policy", "noeviction")
        admin.set("ballast", "x" * 2**20)
        admin.config_set("maxmemory", "1mb")
        answer = sender.ask("send")
        check_lost(answer, server.port)
        assert "is full" in answer["message"]
        assert "Raise its maxmemory" in answer["message"]
        assert answer["took_s"] < LIMIT_S + SLACK_S
        assert admin.llen("internal:6") == 0
        admin.config_set("maxmemory", "0")
        assert "value" in sender.ask("send")
        assert admin.llen("internal:6") == 1


def test_wrong_options_are_told_before_the_broker_is(sender: Submitter, server: RedisServer):
    """Issue 2 §5: what the caller wrote wrong fails without a look at the broker."""
    server.stop()
    answer = sender.ask("send", options={"priority": 11})
    assert answer["error"] == "InvalidTask"
    assert "priority=11" in answer["message"]
