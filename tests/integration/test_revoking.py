"""Cancellations that outlive who heard of them (DESIGN §5, issue 3 §10)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from canvas_tasks import at
from celery import chord, group, states
from celery.exceptions import ChordError, TaskRevokedError
from celery.result import AsyncResult
from celery.worker import state as worker_state
from kombu.exceptions import OperationalError
from sample_tasks import add, flaky, hold, total
from two_gpus import lists, purge, two_gpus
from waiting import wait_for

from gpu_mesh import app
from gpu_mesh.celery import configuration
from gpu_mesh.services import lookup, queue_care
from gpu_mesh.services.lookup import Cancelled
from gpu_mesh.services.revoking import Control
from gpu_mesh.settings import Settings, settings
from gpu_mesh.store import keys, revoked
from gpu_mesh.store.claims import Claimed
from gpu_mesh.store.client import connect
from gpu_mesh.tasks.embeddings import embeddings

pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")

#: How long any of these may take, s.
LIMIT_S = 20


def is_revoked(*task_ids: str) -> list[bool]:
    with connect(settings()) as client:
        return [revoked.contains(client, task_id) for task_id in task_ids]


@pytest.mark.usefixtures("broker")
class TestWrittenDown:
    def test_every_way_to_revoke(self):
        """`control.revoke` with one id or several, terminating or not, a result's and a group's `revoke`."""
        app.control.revoke("one")
        app.control.revoke(["two", "three"], terminate=True, signal="SIGKILL")
        app.control.terminate("four")
        AsyncResult("five", app=app).revoke()
        group(add.s(1, 1), add.s(2, 2)).apply_async().revoke()
        sent = [task.id for task in lookup.waiting_tasks(settings())]
        assert is_revoked("one", "two", "three", "four", "five", *sent) == [True] * 7
        assert is_revoked("six") == [False]

    def test_as_the_command_line_sends_it(self):
        """`celery control revoke ID` broadcasts without the method's help."""
        app.control.broadcast("revoke", arguments={"task_id": ["one", "two"]})
        app.control.broadcast("revoke", task_id="three")
        app.control.broadcast("ping")
        assert is_revoked("one", "two", "three") == [True] * 3

    def test_for_some_workers_only(self):
        """With a destination those are told, as in stock Celery, and nothing is written down."""
        app.control.revoke("one", destination=["gpu0@somewhere"])
        assert is_revoked("one") == [False]

    def test_forgotten_in_time(self):
        """Each is remembered for `KEPT_S`; adding forgets those whose time is over."""
        with connect(settings()) as client:
            now = float(client.time()[0])
            client.zadd(keys.REVOKED, {"over": now - 1})
            assert not revoked.contains(client, "over")
            revoked.add(client, ["new"])
            assert client.zrange(keys.REVOKED, 0, -1) == ["new"]
            assert now + revoked.KEPT_S <= client.zscore(keys.REVOKED, "new") <= now + revoked.KEPT_S + 5

    def test_no_broker(self, free_port: int):
        """Redis that is away: an error in time, not a wait for ever."""
        away = type(app)("away", set_as_current=False)
        away.conf.update(configuration(Settings(broker_url=f"redis://127.0.0.1:{free_port}/0")))
        with pytest.raises(OperationalError, match=str(free_port)):
            away.control.revoke("one")
        away.close()

    def test_cancel_is_written_down(self):
        """Also of a task that waits, and of one nobody knows."""
        sent = add.delay(1, 1)
        assert lookup.cancel(app, settings(), sent.id) == Cancelled("waiting")
        assert lookup.cancel(app, settings(), "nobody") == Cancelled("unknown")
        assert is_revoked(sent.id, "nobody") == [True, True]

    def test_ours_is_in_place(self):
        """Flower and every other user of the app get it."""
        assert isinstance(app.control, Control)


class FakeClaimer:
    """A worker's claimer that has one claim to deliver."""

    worker = "gpu0@test"
    held: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.buried: list[str] = []

    def bury(self, tag: str, why: str) -> None:
        self.buried.append(why)


@pytest.mark.usefixtures("broker")
@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_worker_hears_of_it_with_the_claim(is_cancelled: bool):
    """Before the message is delivered, so that Celery drops it and marks result, chord and event."""
    sent = add.delay(1, 1)
    with connect(settings()) as client:
        envelope = client.rpop("internal:6")
    told: list[bool] = []
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        channel.connection._callbacks["internal"] = lambda message: told.append(sent.id in worker_state.revoked)
        tag = json.loads(envelope)["properties"]["delivery_tag"]
        claimed = Claimed(tag, envelope, "internal:6", "internal", 1, 0.0, "1", revoked=is_cancelled)
        claimer = FakeClaimer()
        channel._deliver_claim(claimer, claimed)
        del channel.connection._callbacks["internal"]
    assert claimer.buried == []
    assert told == [is_cancelled]


@pytest.fixture(scope="class")
def sent_before(empty_redis: object, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Tasks revoked, in every way, while no worker was there to hear of it."""
    with connect(settings()) as client:
        client.flushdb()
    path = tmp_path_factory.mktemp("ran") / "ran"
    plain, delayed = hold.delay(str(path), 0.1), hold.apply_async((str(path), 0.1), countdown=0.5)
    for sent in (plain, delayed):
        sent.revoke()
    parts = [add.s(1, 1), add.s(2, 2)]
    body = chord(parts, total.s())()
    body.parent.results[0].revoke()
    moved = flaky.apply_async((2,), queue="ai-batch", priority=9)
    assert queue_care.move(settings(), "ai-batch", "customer") == 1
    whole = embeddings.apply_async((["a text"],))
    app.control.revoke([whole.id], terminate=True)
    return {"path": path, "results": [plain, delayed, body.parent.results[0], whole], "body": body, "moved": moved}


@pytest.fixture(scope="class")
def workers(sent_before: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with two_gpus(tmp_path_factory.mktemp("revoking")) as log:
        yield log
        purge()


@pytest.mark.usefixtures("workers")
class TestWorkersThatJoinLater:
    def test_they_run_none_of_them(self, sent_before: dict):
        """Revoked while nobody was online: never run, REVOKED, and out of the queues."""
        for sent in sent_before["results"]:
            wait_for(lambda sent=sent: sent.state == states.REVOKED, f"{sent.id} to be REVOKED", LIMIT_S)
        wait_for(lambda: not lists(), "empty queues", LIMIT_S)
        assert not sent_before["path"].exists()

    def test_a_moved_task_and_its_retries_stay_where_they_were_moved(self, sent_before: dict):
        """Issue 3 §12: run from the new queue, priority kept; a retry follows."""
        told = sent_before["moved"].get(LIMIT_S)
        assert (told["retries"], told["queue"], told["wire_priority"]) == (2, "customer", 0)

    def test_a_chord_ends(self, sent_before: dict):
        """Whoever waits for its body hears of it."""
        with pytest.raises(ChordError):
            AsyncResult(sent_before["body"].id, app=app).get(LIMIT_S)

    def test_revoked_while_waiting(self, tmp_path: Path):
        """All devices are busy; what waits is revoked, and dropped by whoever comes to it."""
        holding = [hold.delay(str(tmp_path / name)) for name in ("one", "other")]
        for name in ("one", "other"):
            wait_for((tmp_path / name).exists, f"{name} to run")
        waiting = hold.delay(str(tmp_path / "never"))
        with connect(settings()) as client:
            # Written down only: no worker is told.
            revoked.add(client, [waiting.id])
        for name in ("one", "other"):
            (tmp_path / name).unlink()
        for result in holding:
            result.get(LIMIT_S)
        with pytest.raises(TaskRevokedError):
            waiting.get(LIMIT_S)
        assert not (tmp_path / "never").exists()

    def test_given_back_after_it_was_cancelled(self, tmp_path: Path):
        """A running task that is cancelled, and whose message comes back all the same, does not run again."""
        path = tmp_path / "held"
        sent = hold.delay(str(path))
        wait_for(path.exists, "the held task to run")
        with connect(settings()) as client:
            record = next(iter(client.scan_iter(keys.claims("*"), _type="HASH")))
            envelope = next(text for field, text in client.hgetall(record).items() if field.startswith("="))
        assert lookup.cancel(app, settings(), sent.id) == Cancelled("running")
        with pytest.raises(TaskRevokedError):
            sent.get(LIMIT_S)
        path.unlink()
        with connect(settings()) as client:
            client.rpush("internal:6", envelope)
        wait_for(lambda: not lists(), "the message to be taken", LIMIT_S)
        group(at.s() for _ in range(4))().get(LIMIT_S)
        assert not path.exists()
        assert sent.state == states.REVOKED
