"""Several beats, driven tick by tick: who sends what, and how often (SPEC F3; DESIGN §8, §9 "two beats run")."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis
from bare_workers import mesh_app
from celery.schedules import BaseSchedule, crontab, schedstate

from gpu_mesh.celery import MeshCelery
from gpu_mesh.domain.queues import list_names
from gpu_mesh.settings import settings
from gpu_mesh.store import beat, keys, queues, server
from gpu_mesh.store.client import connect
from workers.beat import Scheduler

QUEUE = "rfa-reminders"


class Never(BaseSchedule):
    """An application's own kind of schedule: due once, when nothing was sent for an hour."""

    def is_due(self, last_run_at: Any) -> schedstate:
        return schedstate((self.now() - last_run_at).total_seconds() > 3600, 5.0)


def entry(schedule: Any, task: str = "shop.tick", **options: Any) -> dict[str, Any]:
    return {"task": task, "schedule": schedule, "options": {"queue": QUEUE, **options}}


@pytest.fixture
def client(broker: str) -> Iterator[redis.Redis]:
    with connect(settings()) as found:
        yield found


@pytest.fixture
def app(broker: str) -> Iterator[MeshCelery]:
    found = mesh_app(broker)
    yield found
    found.close()


@pytest.fixture
def beats(app: MeshCelery) -> Iterator[Any]:
    """Makes a beat with this schedule and nothing of the mesh's own."""
    made: list[Scheduler] = []

    def make(**entries: Any) -> Scheduler:
        app.conf.beat_schedule = {**entries, **OWN_NEVER}
        made.append(Scheduler(app))
        return made[-1]

    yield make
    for scheduler in made:
        scheduler.close()
        scheduler._client.close()


#: The mesh's own tasks, put off: an app's entry of such a task stands for them.
OWN_NEVER = {f"own-{name}": entry(86_400.0, f"mesh.{name}") for name in {"tidy", "windows"}}


def sent(client: redis.Redis) -> list[dict[str, Any]]:
    """Headers of what was sent, the oldest first."""
    return [
        headers
        for name in list_names(QUEUE)
        for raw in reversed(client.lrange(name, 0, -1))
        if not str((headers := queues.headers_of(raw))["task"]).startswith("mesh.")
    ]


def ago(client: redis.Redis, name: str, seconds: float) -> float:
    """The entry was last due then."""
    last = server.now(client) - seconds
    client.hset(keys.BEAT_RUNS, name, repr(last))
    return last


def follow(client: redis.Redis, scheduler: Scheduler) -> None:
    """The one that leads is silent for too long, and another follows."""
    client.delete(keys.BEAT)
    scheduler._asked = float("-inf")
    scheduler.tick()


def test_what_was_missed_is_sent_once_and_keeps_its_beat(client, beats):
    """Both away for ten minutes: once for each entry, a plain interval at a time of its own."""
    last = ago(client, "ten", 605)
    for name in ("cron", "own"):
        ago(client, name, 7200)
    scheduler = beats(ten=entry(timedelta(seconds=10)), cron=entry(crontab()), own=entry(Never()))
    for _ in range(5):
        scheduler.tick()
    found = sent(client)
    assert len(found) == 3
    assert sum(headers["beat_due"] == pytest.approx(last + 600, abs=0.001) for headers in found) == 1
    assert all(beat.FIRING not in headers for headers in found)


def test_a_new_entry_waits_for_its_first_time(client, beats):
    scheduler = beats(ten=entry(10.0), cron=entry(crontab(minute=0, hour=0, day_of_month=31, month_of_year=12)))
    scheduler.tick()
    assert sent(client) == []
    assert beat.runs(client).keys() == scheduler.schedule.keys()


def test_one_leads_and_the_other_sends_nothing(client, beats):
    ago(client, "ten", 15)
    first, second = beats(ten=entry(10.0)), beats(ten=entry(10.0))
    for _ in range(3):
        first.tick()
        second.tick()
    assert len(sent(client)) == 1
    follow(client, second)
    assert len(sent(client)) == 1
    ago(client, "ten", 15)
    follow(client, second)
    assert len(sent(client)) == 2


def test_a_leader_that_wakes_up_after_another_followed_sends_nothing(client, beats):
    """It still believes that it leads: what it sends is refused in Redis, by the script that would have sent it."""
    first, second = beats(ten=entry(10.0)), beats(ten=entry(10.0))
    first.tick()
    ago(client, "ten", 15)
    follow(client, second)
    assert len(sent(client)) == 1
    first._fire(first.schedule["ten"], server.now(client) + 100)
    assert len(sent(client)) == 1
    assert beat.runs(client)["ten"] < server.now(client)


def test_an_answer_that_is_lost_sends_nothing_twice(client, beats):
    """Redis took the message and its answer is lost: the same is sent again."""
    scheduler = beats(cron=entry(crontab()))
    ago(client, "cron", 120)
    scheduler.tick()
    assert len(sent(client)) == 1
    due = sent(client)[0]["beat_due"]
    scheduler._begun["cron"] = due
    scheduler._fire(scheduler.schedule["cron"], server.now(client))
    assert len(sent(client)) == 1
    assert scheduler.schedule["cron"].last_run_at.timestamp() == pytest.approx(due, abs=0.001)


def test_an_orderly_stop_makes_room_at_once(client, beats):
    first, second = beats(ten=entry(10.0)), beats(ten=entry(10.0))
    first.tick()
    second.close()
    assert client.get(keys.BEAT) == first._me
    first.close()
    assert client.pttl(keys.BEAT) <= 1


def test_what_left_the_schedule_is_sent_no_more(client, beats):
    """Also while an older version, whose schedule still has it, stands by."""
    older, newer = beats(ten=entry(10.0), gone=entry(10.0)), beats(ten=entry(10.0))
    older.tick()
    follow(client, newer)
    older.tick()
    assert "gone" not in beat.runs(client)
    ago(client, "gone", 60)
    ago(client, "ten", 60)
    older.tick()
    newer._asked, newer._leader = float("-inf"), ""
    newer.tick()
    assert len(sent(client)) == 1


def test_an_entry_that_is_wrong_stops_no_other(client, beats):
    """A schedule that is none, one whose next time cannot be told, a queue that there is not."""

    class Broken(BaseSchedule):
        def is_due(self, last_run_at: Any) -> schedstate:
            raise ZeroDivisionError

    for name in ("ten", "nowhere"):
        ago(client, name, 15)
    wrong = {"task": "shop.tick", "schedule": 1.0, "bogus": True}
    scheduler = beats(wrong=wrong, broken=entry(Broken()), nowhere=entry(10.0, queue="no-such"), ten=entry(10.0))
    for _ in range(3):
        scheduler.tick()
    assert len(sent(client)) == 1
    assert beat.runs(client)["nowhere"] > server.now(client) - 10


def test_a_message_for_later_is_sent_once_too(client, beats):
    ago(client, "ten", 15)
    scheduler = beats(ten=entry(10.0, countdown=60))
    scheduler.tick()
    due = beat.runs(client)["ten"]
    scheduler._begun["ten"] = due
    scheduler._fire(scheduler.schedule["ten"], server.now(client))
    assert len(list(queues.delayed(client))) == 1


def test_a_clock_that_was_set_back_keeps_nothing_waiting(client, beats):
    """What was sent an hour ahead counts as sent now."""
    ago(client, "ten", -3600)
    beats(ten=entry(10.0)).tick()
    assert beat.runs(client)["ten"] == pytest.approx(server.now(client), abs=5)


def test_a_redis_that_forgot_is_told(client, beats):
    """Restarted without its data: the leader goes on where it was, and what is due is sent once."""
    ago(client, "ten", 15)
    scheduler = beats(ten=entry(10.0))
    scheduler.tick()
    due = beat.runs(client)["ten"]
    client.delete(keys.BEAT, keys.BEAT_RUNS)
    scheduler._asked = float("-inf")
    scheduler.tick()
    assert beat.runs(client)["ten"] == pytest.approx(due, abs=0.001)
    assert len(sent(client)) == 1


def test_an_applications_schedule_does_not_put_out_the_meshs(app):
    """`app.conf.beat_schedule = {…}`, as Celery's manual has it; also where a name is one of ours."""
    app.conf.beat_schedule = {"tidy": entry(10.0)}
    scheduler = Scheduler(app, lazy=False)
    try:
        tasks = {name: found.task for name, found in scheduler.schedule.items()}
    finally:
        scheduler._client.close()
    assert tasks["tidy"] == "shop.tick"
    assert tasks["mesh.tidy"] == "mesh.tidy"
    assert {"windows", "windows-mend", "line"} <= tasks.keys()
