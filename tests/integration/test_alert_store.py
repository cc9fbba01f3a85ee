"""Alerts in Redis: `services.alerts.post` and `clear`, from several processes at once too (SPEC H5-H7)."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator

import pytest
import redis
from redis_servers import RedisServer, running

from gpu_mesh.domain.alerts import PASSED, Alert, Level, Notice
from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.services import alerts, recent_alerts
from gpu_mesh.settings import Settings, settings
from gpu_mesh.store import alerts as store
from gpu_mesh.store import keys, outbox, server
from gpu_mesh.store.client import connect


@pytest.fixture
def client(broker: str) -> Iterator[redis.Redis]:
    """A mesh in which somebody has channels."""
    with connect(settings()) as found:
        outbox.announce(found)
        yield found


def alert(subject: str = "gpu0@n1", level: Level = Level.ERROR, rule: str = "device") -> Alert:
    return Alert(rule=rule, subject=subject, level=level, text="does not answer", remedy="look at it")


def told(client: redis.Redis) -> list[tuple[str, str, str]]:
    return [(one.kind, one.level.name, one.subject) for one in outbox.pending(client)]


def test_the_way_of_an_alert(client: redis.Redis, caplog: pytest.LogCaptureFixture):
    """H6: in the log at its level, once; in the outbox; when it is over in the history, times by Redis's clock."""
    caplog.set_level(logging.INFO)
    for _ in range(3):
        alerts.post(client, alert())
    (held,) = store.standing(client)
    assert held.since == pytest.approx(server.now(client), abs=5)
    alerts.clear(client, "device", "gpu0@n1", "answers")
    alerts.clear(client, "device", "gpu0@n1", "answers")
    assert told(client) == [("raised", "ERROR", "gpu0@n1"), ("over", "INFO", "gpu0@n1")]
    assert store.standing(client) == []
    (past,) = store.past(client)
    assert (past.rule, past.level, past.text, past.remedy) == ("device", "ERROR", "does not answer", "look at it")
    assert past.raised == held.since <= past.recovered
    logged = [(record.levelname, record.message) for record in caplog.records if record.name == alerts.__name__]
    assert logged == [
        ("ERROR", "gpu0@n1: does not answer (look at it)"), ("INFO", "gpu0@n1: over: answers"),
    ]  # fmt: skip


def test_several_processes_at_once_tell_once(client: redis.Redis, caplog: pytest.LogCaptureFixture):
    """Two posts of one rule and subject are one message, and so are two clears; each through its own client."""
    start = threading.Barrier(8)

    def work() -> None:
        with connect(settings()) as own:
            start.wait(10)
            alerts.post(own, alert())
            start.wait(10)
            alerts.clear(own, "device", "gpu0@n1", "answers")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert told(client) == [("raised", "ERROR", "gpu0@n1"), ("over", "INFO", "gpu0@n1")]
    assert len(store.past(client)) == 1
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1


def test_many_at_once_are_a_few_lines(client: redis.Redis):
    """Issue 6 §4: rate limits, counted over all processes; the others are told of when their window is over."""
    for number in range(20):
        alerts.post(client, alert(f"n{number}", rule="disconnected"))
    assert len(told(client)) == PASSED
    assert store.summarise(client) == 0
    rates = json.loads(str(client.hget(keys.ALERT_RATES, "disconnected")))
    rates["ERROR"]["since"] -= 600
    client.hset(keys.ALERT_RATES, "disconnected", json.dumps(rates))
    assert store.summarise(client) == 1
    last = outbox.pending(client)[-1]
    assert last.text.startswith("disconnected: and 15 more: n5, n6")
    assert not client.exists(keys.ALERT_RATES)


def test_nothing_is_kept_for_channels_that_nobody_has(broker: str):
    """The log and the history are enough; an outbox that nobody empties is none."""
    with connect(settings()) as client:
        alerts.post(client, alert())
        assert told(client) == []
        assert len(store.standing(client)) == 1


def test_an_outbox_that_nobody_empties_stays_small(client: redis.Redis):
    """The control worker is gone for a night."""
    notice = Notice(kind="event", rule="r", subject="s", level=Level.INFO, reach=20, text="t", since=0.0, at=0.0)
    with client.pipeline() as pipe:
        outbox.put(pipe, [notice] * outbox.KEPT, 1.0)
        pipe.execute()
    alerts.post(client, alert())
    assert client.hlen(keys.OUTBOX) == outbox.KEPT


def test_the_history_stays_small(client: redis.Redis):
    for number in range(3):
        alerts.post(client, alert(f"n{number}", Level.INFO))
    assert [one.subject for one in store.past(client)] == ["n2", "n1", "n0"]
    client.lpush(keys.ALERTS_PAST, *(["{}"] * store.PAST_KEPT))
    alerts.post(client, alert("last", Level.INFO))
    assert client.llen(keys.ALERTS_PAST) == store.PAST_KEPT
    assert [one.subject for one in store.past(client)] == ["last"]


def test_what_is_none_of_ours_is_passed_over(client: redis.Redis):
    """An older or newer version's entries, a stranger's."""
    for key in (keys.ALERTS, keys.ALERT_RATES, keys.SILENCES, keys.OUTBOX, keys.TRIES):
        client.hset(key, mapping={"device|gpu0@n1": "no JSON", "device": "[1]", "x": "{}"})
    alerts.post(client, alert())
    assert len(store.standing(client)) == 1
    assert store.silences(client) == []
    assert told(client) == [("raised", "ERROR", "gpu0@n1")]
    assert outbox.tries(client).keys() <= {("x", "")}
    store.summarise(client)


@pytest.mark.usefixtures("broker")
def test_redis_is_away(tmp_path, caplog: pytest.LogCaptureFixture):
    """The log has the alert all the same; whoever posts hears that it is nowhere else."""
    with running(RedisServer(tmp_path, "maxmemory 64mb")) as own:
        client = connect(Settings(broker_url=own.url), timeout_s=0.5, retries=0)
        own.stop()
        with pytest.raises(BrokerUnavailable):
            alerts.post(client, alert())
        assert "gpu0@n1: does not answer" in caplog.text
        with pytest.raises(BrokerUnavailable):
            alerts.clear(client, "device", "gpu0@n1", "answers")
        client.close()


def test_what_interfaces_show(client: redis.Redis):
    """H8: what stands, the gravest first, and what ended within five minutes."""
    alerts.post(client, alert("n1"))
    alerts.post(client, alert("n2", Level.CRITICAL))
    alerts.post(client, alert("n3"))
    alerts.clear(client, "device", "n3", "answers")
    now = server.now(client)
    found = recent_alerts.recent(client, now)
    assert [(one.subject, one.level, one.over_at is None) for one in found] == [
        ("n2", "CRITICAL", True), ("n1", "ERROR", True), ("n3", "ERROR", False),
    ]  # fmt: skip
    assert [one.subject for one in recent_alerts.recent(client, now + recent_alerts.LATELY_S + 1)] == ["n2", "n1"]
