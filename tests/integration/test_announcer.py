"""Alerts arrive: by mail and web hook, whatever other channels, Redis and the sender do (SPEC H6; issue 6 §4)."""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from receivers import Mailbox, Webhook, mailbox, webhook
from redis_servers import RedisServer, running
from waiting import wait_for

from gpu_mesh.domain.alerts import Alert, Level, Notice
from gpu_mesh.domain.announcing import GIVE_UP_S
from gpu_mesh.domain.channels import Channel, parse
from gpu_mesh.services import alerts, announcing
from gpu_mesh.services.channels import Messenger, send
from gpu_mesh.settings import Settings, settings
from gpu_mesh.store import keys, outbox
from gpu_mesh.store.client import connect
from workers.announcer import Announcer

#: What no log and no key of Redis may hold.
SECRET = "s3cret-path"
WHO = "test"


@pytest.fixture
def client(broker: str) -> Iterator[redis.Redis]:
    with connect(settings()) as found:
        outbox.announce(found)
        yield found


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as found:
        yield found


@pytest.fixture
def post() -> Iterator[Mailbox]:
    with mailbox() as found:
        yield found


def raise_(client: redis.Redis, subject: str = "gpu0@n1", level: Level = Level.ERROR) -> None:
    alerts.post(client, Alert(rule="device", subject=subject, level=level, text="does not answer", remedy="look at it"))


def tick(client: redis.Redis, channels: tuple[Channel, ...], deadline_s: float = 20.0) -> int:
    return announcing.tick(client, settings(), channels, lambda batch: send(batch, deadline_s), WHO)


def channels(*words: str) -> tuple[Channel, ...]:
    return parse(" ".join(words), Level.WARNING)


def make_due(client: redis.Redis) -> None:
    """As if the wait for the next try were over."""
    for field, told in client.hgetall(keys.TRIES).items():
        client.hset(keys.TRIES, field, json.dumps({**json.loads(told), "due": 0.0}))


def test_mail_and_web_hook(client: redis.Redis, hook: Webhook, post: Mailbox):
    """H6: title with level and subject; body with text, remedy, since when and which mesh. Each hears from its own
    level on, and of the end of what it heard."""
    own = channels(hook.url(), f"CRITICAL={post.url}")
    raise_(client)
    assert tick(client, own) == 1
    raise_(client, level=Level.CRITICAL)
    assert tick(client, own) == 2
    alerts.clear(client, "device", "gpu0@n1", "answers")
    assert tick(client, own) == 2
    assert hook.titles[:2] == [
        "[gpu-mesh] ERROR gpu0@n1: does not answer",
        "[gpu-mesh] CRITICAL gpu0@n1: does not answer",
    ]
    assert re.fullmatch(r"\[gpu-mesh\] INFO gpu0@n1: recovered after \d+ s: answers", hook.titles[2])
    body = hook.posts[0]["message"]
    assert "gpu0@n1: does not answer\nWhat to do: look at it\nSince: 20" in body
    assert body.endswith("Rule: device\nMesh: the one that test-node leads")
    assert [post["type"] for post in hook.posts] == ["failure", "failure", "success"]
    assert [mail["Subject"] for mail in post.mails] == hook.titles[1:]
    assert client.hlen(keys.OUTBOX) == client.hlen(keys.TRIES) == 0
    assert tick(client, own) == 0


class TestAChannel:
    def test_that_refuses_is_tried_again(self, client: redis.Redis, hook: Webhook, caplog: pytest.LogCaptureFixture):
        """The failure is logged once, the address masked; the message arrives when it takes them again."""
        own = channels(hook.url(SECRET))
        hook.status = 500
        raise_(client)
        assert tick(client, own) == 1
        assert tick(client, own) == 0, "not before its time"
        make_due(client)
        assert tick(client, own) == 1
        (logged,) = [record.getMessage() for record in caplog.records if record.name == announcing.__name__]
        assert logged.startswith("json (channel 1) was not told, it is tried again for an hour: ")
        assert "500" in logged
        assert SECRET not in caplog.text + json.dumps(client.hgetall(keys.TRIES))
        hook.status = 200
        make_due(client)
        assert tick(client, own) == 1
        assert len(hook.posts) == 1
        assert client.hlen(keys.OUTBOX) == client.hlen(keys.TRIES) == 0

    def test_that_is_down_keeps_no_other_waiting(self, client: redis.Redis, hook: Webhook, free_port: int):
        """Also not with the end of the alert, which it hears in its order later."""
        own = channels(f"json://127.0.0.1:{free_port}/{SECRET}", hook.url())
        raise_(client)
        tick(client, own)
        alerts.clear(client, "device", "gpu0@n1", "answers")
        assert tick(client, own) == 1
        assert len(hook.posts) == 2
        assert [one.kind for one in outbox.pending(client)] == ["raised", "over"]

    def test_that_hangs_costs_the_others_its_deadline(self, client: redis.Redis, hook: Webhook):
        """The process that sends is killed; what the others got is not sent again."""
        with webhook() as hanging:
            hanging.hangs.set()
            own = channels(hanging.url(), hook.url())
            raise_(client)
            began = time.monotonic()
            tick(client, own, deadline_s=3.0)
            assert time.monotonic() - began < 15
            assert len(hook.posts) == 1
            tries = outbox.tries(client)
            (error,) = [at.error for at in tries.values() if at.error]
            # apprise's own limits are about 4 s and not for the whole; ours came first.
            assert error == "no answer within 3 s"
            hanging.hangs.clear()
            make_due(client)
            tick(client, own)
            assert (len(hanging.posts), len(hook.posts)) == (1, 1)

    def test_that_stays_away_is_given_up(self, client: redis.Redis, free_port: int, caplog: pytest.LogCaptureFixture):
        """After an hour: what could not be told is in the log, the address is not."""
        own = channels(f"json://127.0.0.1:{free_port}/{SECRET}")
        raise_(client)
        tick(client, own)
        for field, told in client.hgetall(keys.OUTBOX).items():
            held = json.loads(told)
            client.hset(keys.OUTBOX, field, json.dumps({**held, "at": held["at"] - GIVE_UP_S}))
        tick(client, own)
        record = caplog.records[-1]
        assert record.levelname == "ERROR"
        assert "json (channel 1) was not told, given up: [ERROR] gpu0@n1: does not answer" in record.message
        assert SECRET not in caplog.text
        assert client.hlen(keys.OUTBOX) == client.hlen(keys.TRIES) == 0


def test_a_sender_that_cannot_start_loses_nothing(client: redis.Redis, hook: Webhook):
    """No memory for a process, a Python that is gone."""
    raise_(client)
    broken = Messenger(["/no/such/python"])
    announcing.tick(client, settings(), channels(hook.url()), lambda batch: broken.send(batch, 5.0), WHO)
    assert len(outbox.pending(client)) == 1
    make_due(client)
    tick(client, channels(hook.url()))
    assert len(hook.posts) == 1


def test_two_senders_tell_once(client: redis.Redis, hook: Webhook, caplog: pytest.LogCaptureFixture):
    """Two control workers: each message once, whoever sends it."""
    own = list(channels(hook.url()))
    both = [Announcer(settings(), own, every_s=0.02) for _ in range(2)]
    for one in both:
        one.start()
    try:
        for number in range(4):
            raise_(client, f"gpu{number}@n1")
        wait_for(lambda: len(hook.posts) >= 4 and not client.hlen(keys.OUTBOX), "four messages")
    finally:
        for one in both:
            one.stop()
    assert sorted(hook.titles) == [f"[gpu-mesh] ERROR gpu{number}@n1: does not answer" for number in range(4)]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING and "sent" in record.message]
    assert client.get(keys.ANNOUNCER) is None


def test_one_that_is_stopped_leaves_the_rest(client: redis.Redis, hook: Webhook):
    """A control worker's stop waits for no channel; what was on its way goes out with the next one."""
    hook.hangs.set()
    first = Announcer(settings(), list(channels(hook.url())), every_s=0.02)
    first.start()
    raise_(client)
    assert hook.arrived.acquire(timeout=20)
    began = time.monotonic()
    first.stop()
    assert time.monotonic() - began < 4
    hook.hangs.clear()
    assert outbox.tries(client) == {}
    assert tick(client, channels(hook.url())) == 1
    assert len(hook.posts) == 1


SENDER = """
import os, signal, sys
from gpu_mesh.domain.alerts import Level
from gpu_mesh.domain.channels import parse
from gpu_mesh.services import announcing
from gpu_mesh.settings import settings
from gpu_mesh.store.client import connect

def die(batch):
    os.kill(os.getpid(), signal.SIGKILL)

with connect(settings()) as client:
    announcing.tick(client, settings(), parse(sys.argv[1], Level.WARNING), die, "dying", lock_s=1.0)
"""


def test_one_that_dies_between_taking_and_sending(client: redis.Redis, hook: Webhook):
    """SIGKILL: its claim on sending expires, the message goes out."""
    raise_(client)
    died = subprocess.run([sys.executable, "-c", SENDER, hook.url()], timeout=60, check=False)
    assert died.returncode == -signal.SIGKILL
    assert client.pttl(keys.ANNOUNCER) > 0
    assert hook.posts == []
    wait_for(lambda: tick(client, channels(hook.url())), "the dead sender's time to be over")
    assert len(hook.posts) == 1


def test_redis_is_away_for_a_moment(tmp_path: Path, hook: Webhook, caplog: pytest.LogCaptureFixture):
    """The thread lives on, says so once, and sends what was there before."""
    with running(RedisServer(tmp_path, "maxmemory 64mb")) as own:
        current = Settings(broker_url=own.url)
        thread = Announcer(current, list(channels(hook.url())), every_s=0.02)
        thread.start()
        try:
            with connect(current) as client:
                wait_for(lambda: client.exists(keys.ANNOUNCED), "the announcer")
                own.stop()
                wait_for(lambda: "alerts are not sent" in caplog.text, "the outage to be noticed")
                own.start()
                notice = Notice(
                    kind="raised", rule="r", subject="s", level=Level.ERROR, reach=40, text="t", since=0.0, at=0.0
                )
                outbox.put(client, [notice], 1.0)
                wait_for(lambda: hook.posts, "the message")
        finally:
            thread.stop()
    warned = [record for record in caplog.records if "alerts are not sent" in record.message]
    assert [record.levelname for record in warned].count("WARNING") == 1


def test_a_redis_that_lost_its_data_hears_again_of_the_channels(client: redis.Redis, hook: Webhook):
    """DESIGN §9: what is posted after a FLUSHALL is told, not only from the next announcement on."""
    announcer = Announcer(settings(), list(channels(hook.url())), every_s=0.05)
    client.delete(keys.ANNOUNCED)
    announcer.start()
    try:
        wait_for(lambda: client.exists(keys.ANNOUNCED), "the first announcement")
        client.flushdb()
        wait_for(lambda: client.exists(keys.ANNOUNCED), "another one")
        raise_(client)
        wait_for(lambda: hook.titles, "the message")
    finally:
        announcer.stop()
