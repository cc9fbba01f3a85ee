"""What stock Celery workers leave behind, taken over by `gpu-mesh doctor --mend` (DESIGN §4, issue 3 §11)."""

from __future__ import annotations

import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import START_S
from sample_tasks import add, hold
from stock_app import STOCK_BROKER
from two_gpus import lists
from waiting import wait_for

from gpu_mesh import app
from gpu_mesh.cli.doctor import examine
from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.services import leftovers, lookup
from gpu_mesh.settings import settings
from gpu_mesh.store import server
from gpu_mesh.store.client import connect
from gpu_mesh.store.leftovers import INDEX, UNACKED

pytestmark = pytest.mark.usefixtures("broker")

OLD_S = leftovers.OLD_S + 60


def left(number: int, *, queue: str = "internal", priority: int = 6, age_s: float = OLD_S, exchange: str = "") -> str:
    """A message as kombu keeps what a stock worker took; its task id."""
    task_id = f"task-{number}"
    envelope = {
        "body": "",
        "headers": {"id": task_id, "task": "sample_tasks.add"},
        "properties": {"delivery_tag": f"tag-{number}", "priority": priority, "delivery_info": {"routing_key": queue}},
    }
    with connect(settings()) as client:
        client.hset(UNACKED, f"tag-{number}", json.dumps([envelope, exchange, queue]))
        client.zadd(INDEX, {f"tag-{number}": time.time() - age_s})
    return task_id


def look(**options: object) -> leftovers.Found:
    return leftovers.look(app, settings(), **options)


def waiting() -> list[tuple[str, str]]:
    """Lists and task ids, each list in the order it is taken."""
    with connect(settings()) as client:
        return [
            (name, json.loads(raw)["headers"]["id"])
            for name in sorted(lists())
            for raw in reversed(client.lrange(name, 0, -1))
        ]


def test_the_old_come_back_in_front():
    """Into the list of their priority, the oldest first, in front of what waits; marked as delivered before."""
    newer, older = left(1, age_s=OLD_S), left(2, age_s=OLD_S + 60)
    urgent = left(3, priority=0)
    rounded = left(4, priority=5)
    behind = add.delay(1, 1).id
    assert leftovers.summary(settings())[0] == 4
    assert leftovers.put_back(settings(), look()) == 4
    assert waiting() == [
        ("internal", urgent),
        ("internal:3", rounded),
        ("internal:6", older),
        ("internal:6", newer),
        ("internal:6", behind),
    ]
    with connect(settings()) as client:
        assert not client.exists(UNACKED, INDEX)
        envelope = json.loads(client.lindex("internal:6", -1))
    assert envelope["headers"]["redelivered"] is envelope["properties"]["delivery_info"]["redelivered"] is True


def test_what_is_young_or_not_ours_stays():
    """A living stock worker may have it; another application's queue is none of our business."""
    left(1, age_s=10)
    left(2, queue="celery")
    with connect(settings()) as client:
        client.hset(UNACKED, "unreadable", "no json")
        client.hset(UNACKED, "ageless", json.dumps([json.loads(client.hget(UNACKED, "tag-1"))[0], "", "internal"]))
    found = look()
    assert (len(found.ready), found.young, found.foreign) == (0, 2, 2)
    assert str(found) == "2 taken too lately, 2 of no queue of the mesh"
    assert leftovers.put_back(settings(), found) == 0
    assert leftovers.summary(settings())[0] == 4
    assert len(look(older_than_s=5).ready) == 1
    assert len(look(take_all=True).ready) == 2


def test_an_exchange_leads_to_its_queue():
    """A stock application may have named it; the binding says the queue."""
    left(1, queue="internal", exchange="shop")
    assert look().foreign == 1
    with connect(settings()) as client:
        client.sadd("_kombu.binding.shop", "internal\x06\x16\x06\x16customer")
    (found,) = look().ready
    assert (found.queue, found.list) == ("customer", "customer:6")


@pytest.mark.parametrize("change", ["acked", "taken anew"])
def test_what_changed_meanwhile_is_left_alone(change: str):
    """Between the look and the yes its worker may have come to life."""
    left(1)
    found = look()
    with connect(settings()) as client:
        if change == "acked":
            client.delete(UNACKED, INDEX)
        else:
            client.zadd(INDEX, {"tag-1": time.time()})
    assert leftovers.put_back(settings(), found) == 0
    assert lists() == {}


@contextmanager
def stock_worker(log: Path) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-m", "celery", "-A", "stock_app", "worker", "-Q", "internal", "-c", "1", "-n", "stock@x"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*argv, "-l", "INFO", "--without-mingle", "--without-gossip"],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, STOCK_BROKER: app.conf.broker_url, "C_FORCE_ROOT": "true"},
            start_new_session=True,
        )
    try:
        wait_for(lambda: "stock@x ready" in log.read_text() or process.poll() is not None, "the stock worker", START_S)
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_stock_worker_that_lives_and_dies(tmp_path: Path):
    """What it says it has is not touched, however old; once it is dead, nothing it had taken is lost."""
    with stock_worker(tmp_path / "log") as worker:
        first = hold.delay(str(tmp_path / "held"))
        wait_for((tmp_path / "held").exists, "the stock worker to run the first")
        rest = [add.delay(n, n).id for n in range(3)]
        wait_for(lambda: leftovers.summary(settings())[0] == 3, "it to fetch the rest ahead")
        with connect(settings()) as client:
            client.zadd(INDEX, dict.fromkeys(client.zrange(INDEX, 0, -1), time.time() - OLD_S), xx=True)
        found = look()
        assert (found.held, found.ready) == (3, [])
        assert first.id not in {item.task_id for item in found.ready}
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
    found = look()
    assert (found.held, len(found.ready)) == (0, 3)
    assert leftovers.put_back(settings(), found) == 3
    assert sorted(task.id for task in lookup.waiting_tasks(settings())) == sorted(rest)


def test_doctor_counts_them():
    """A note with their number and the age of the oldest, and what to do."""
    left(1, age_s=7200)
    left(2, age_s=60)
    (finding,) = [finding for finding in examine(settings()) if finding.check == "leftovers"]
    assert finding.level == "note"
    assert finding.found == "2 messages held by stock Celery workers, the oldest for 2 h"
    assert "--mend" in finding.remedy


@pytest.mark.parametrize(
    ("version", "old"),
    [("6.0.16", True), ("5.0", True), ("6.2.0", False), ("7.2.4", False), ("10.0.0", False), ("255.x", False)],
)
def test_versions(version: str, old: bool):
    """Compared as numbers; what is no version is not refused."""
    assert server.is_too_old(version) is old


class OldRedis(socketserver.StreamRequestHandler):
    """Answers what doctor asks; one before Redis 6 does not know HELLO."""

    knows_hello = True

    def handle(self) -> None:
        while line := self.rfile.readline():
            words = [self.rfile.readline() and self.rfile.readline().strip() for _ in range(int(line[1:]))]
            info = b"redis_version:6.0.16\r\n"
            answers = {b"PING": b"+PONG\r\n", b"INFO": b"$%d\r\n%s\r\n" % (len(info), info), b"CLIENT": b"+OK\r\n"}
            if self.knows_hello:
                answers[b"HELLO"] = b"%1\r\n$5\r\nproto\r\n:3\r\n"
            self.wfile.write(answers.get(words[0].upper(), b"-ERR unknown command\r\n"))


class OlderRedis(OldRedis):
    knows_hello = False


@pytest.mark.parametrize(("handler", "version"), [(OldRedis, "6.0.16"), (OlderRedis, "5 or older")])
def test_a_redis_that_is_too_old_is_an_error(handler: type[OldRedis], version: str):
    """With the version that is needed and what to do."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as old:
        old.daemon_threads = True
        threading.Thread(target=old.serve_forever, daemon=True).start()
        address: tuple[str, int] = old.server_address
        current = settings().model_copy(update={"broker_url": f"redis://{address[0]}:{address[1]}/0"})
        (finding,) = [finding for finding in examine(current) if finding.check == "broker"]
        old.shutdown()
    assert finding.level == "missing"
    assert f"Redis {version}; at least 6.2" in finding.found
    assert "upgrade" in finding.remedy


def test_a_redis_that_is_away():
    """Counted among what is missing by the broker's line, not by this one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        current = settings().model_copy(update={"broker_url": f"redis://127.0.0.1:{probe.getsockname()[1]}/0"})
    with pytest.raises(BrokerUnavailable):
        leftovers.summary(current)
