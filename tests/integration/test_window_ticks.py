"""Gates in line with the clock: `services.windows.tick`, driven by hand (SPEC R2; DESIGN §7)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest
import redis
from waiting import wait_for

from gpu_mesh.domain.queues import CONTROL_QUEUE, GPU_QUEUES
from gpu_mesh.services import gates as service
from gpu_mesh.services import windows
from gpu_mesh.settings import Settings, settings
from gpu_mesh.store import gates, keys, server
from gpu_mesh.store import windows as store
from gpu_mesh.store.client import connect
from gpu_mesh.store.scripts import script
from gpu_mesh.tasks import control
from workers.lease import Lease
from workers.pulse import Pulse

BERLIN = Settings(peak_hours="mon-fri 09:00-18:00", timezone="Europe/Berlin", node_name="lead")
ELSEWHERE = Settings(peak_hours="none", timezone="Asia/Tokyo", node_name="far")
#: A Friday.
DAY = (2026, 11, 20)


def at(*clock: int, day: tuple[int, int, int] = DAY) -> float:
    return datetime(*day, *clock, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()


@pytest.fixture
def client(broker: str) -> Iterator[redis.Redis]:
    with connect(settings()) as found:
        yield found


def closed(client: redis.Redis) -> list[tuple[str, str, float | None]]:
    return [(gate.queue, gate.reason, gate.until) for gate in gates.all_gates(client)]


def test_a_day(client: redis.Redis):
    """R2: closed from the first minute of peak hours to the last, whatever time the ticks come."""
    peak = [("ai-batch", "window", at(18))]
    for now, found in [
        (at(8, 59), []),
        (at(9), peak),
        (at(9, 0, 30), peak),
        (at(17, 59), peak),
        (at(18), []),
        (at(23), []),
    ]:
        windows.tick(client, BERLIN, now, leads=True)
        assert closed(client) == found, now


@pytest.mark.parametrize("now", [(10,), (17, 59, 59)])
def test_a_late_start_closes(client: redis.Redis, now: tuple[int, ...]):
    """R2: nobody was there at nine."""
    windows.tick(client, BERLIN, at(*now), leads=True)
    assert closed(client) == [("ai-batch", "window", at(18))]


def test_a_missed_end_opens(client: redis.Redis):
    """R2: nobody was there at six, nor at nine the next working day: the gate is closed, with its new end."""
    windows.tick(client, BERLIN, at(10), leads=True)
    windows.tick(client, BERLIN, at(3, day=(2026, 11, 22)))
    assert closed(client) == []
    windows.tick(client, BERLIN, at(10))
    monday = (2026, 11, 23)
    windows.tick(client, BERLIN, at(10, day=monday))
    assert closed(client) == [("ai-batch", "window", at(18, day=monday))]


def test_a_clock_that_jumps_back(client: redis.Redis):
    """DESIGN §9: what holds is what the clock says now."""
    windows.tick(client, BERLIN, at(10), leads=True)
    windows.tick(client, BERLIN, at(8))
    assert closed(client) == []


def test_the_lead_says_the_hours(client: redis.Redis, caplog: pytest.LogCaptureFixture):
    """R2: whoever tends, and whatever its own settings and time zone are; without a lead ever, its own hold."""
    windows.tick(client, BERLIN, at(10))
    assert closed(client) == [("ai-batch", "window", at(18))]
    windows.tick(client, ELSEWHERE, at(10))
    assert closed(client) == []
    windows.tick(client, BERLIN, at(10), leads=True)
    windows.tick(client, ELSEWHERE, at(10))
    assert closed(client) == [("ai-batch", "window", at(18))]
    assert not caplog.records
    windows.tick(client, ELSEWHERE, at(10), leads=True)
    assert closed(client) == []
    assert "peak hours are none (Asia/Tokyo) by far" in caplog.text


def test_two_leads_that_say_the_same_hours_change_nothing(client: redis.Redis, caplog: pytest.LogCaptureFixture):
    """Whichever control worker tends: no word of new hours where there are none."""
    windows.tick(client, BERLIN, at(10), leads=True)
    windows.tick(client, BERLIN.model_copy(update={"node_name": "lead-2"}), at(10), leads=True)
    assert caplog.messages == []
    assert closed(client) == [("ai-batch", "window", at(18))]


def test_hours_that_change_move_the_end(client: redis.Redis):
    """R2: a lead that is started with other settings."""
    windows.tick(client, BERLIN, at(10), leads=True)
    (before,) = gates.all_gates(client)
    windows.tick(
        client, Settings(peak_hours="08:00-20:00", timezone="Europe/Berlin", node_name="lead"), at(11), leads=True
    )
    (gate,) = gates.all_gates(client)
    assert gate.until == at(20)
    assert "08:00-20:00" in gate.by
    assert gate.since == before.since


def test_no_other_queue_is_touched(client: redis.Redis):
    """Q6: peak hours are ai-batch's alone."""
    windows.tick(client, BERLIN, at(10), leads=True)
    assert client.hget(keys.STATE, ":*") == ",ai-batch,"


def test_opened_by_hand_until_then(client: redis.Redis):
    """Issue 5 §3: an override with an end; then peak hours close it again."""
    windows.tick(client, BERLIN, at(10), leads=True)
    store.open_until(client, "ai-batch", store.Opened(at(12), "ann"))
    for now, is_closed in [(at(10, 1), False), (at(11, 59), False), (at(12), True), (at(13), True)]:
        windows.tick(client, BERLIN, now)
        assert bool(closed(client)) == is_closed, now
    assert store.read(client)[1] == {}


def test_a_pause_with_an_end_ends(client: redis.Redis):
    """Issue 5 §1: by itself; one without stays, and so does peak hours' gate beside it."""
    windows.tick(client, BERLIN, at(10), leads=True)
    gates.close(client, "ai-batch", "manual", until=at(11))
    gates.close(client, "customer", "manual", until=at(11), scope="node")
    gates.close(client, "revenue", "manual")
    windows.tick(client, BERLIN, at(10, 59))
    assert len(closed(client)) == 4
    windows.tick(client, BERLIN, at(11))
    assert closed(client) == [("ai-batch", "window", at(18)), ("revenue", "manual", None)]


def test_a_pause_that_is_prolonged_meanwhile_stays(client: redis.Redis):
    """Issue 5 §1: what the tick read is not what holds any more."""
    gates.close(client, "customer", "manual", until=at(11))
    (seen,) = gates.all_gates(client)
    gates.close(client, "customer", "manual", until=at(12))
    assert not gates.open_ended(client, seen)
    # Nor between its look and its step.
    assert script(client, "gate")(args=["customer", "manual", "*", "", "what it was"]) == 0
    assert closed(client) == [("customer", "manual", at(12))]


def test_what_is_unreadable_stops_no_tick(client: redis.Redis):
    """STYLE: a stranger's fields, or a plan of another version."""
    client.hset(keys.WINDOWS, mapping={"plan": "[1]", "+ai-batch": "x", "other": "{}"})
    client.hset(keys.GATES, mapping={"customer|manual@*": '{"until": "soon"}', "nonsense": "x"})
    windows.tick(client, BERLIN, at(10))
    assert closed(client) == [("ai-batch", "window", at(18)), ("customer", "manual", None)]


def test_a_zone_that_is_not_known_here(client: redis.Redis, caplog: pytest.LogCaptureFixture):
    """R2: the lead's machine knows more zones than this one: UTC, and a warning."""
    store.set_plan(client, store.Plan("09:00-18:00", "Mars/Phobos", "lead"))
    windows.tick(client, BERLIN, at(18, 30))
    assert [reason for _, reason, _ in closed(client)] == ["window"]
    assert "Mars/Phobos" in caplog.text


def test_the_worker_that_tends_ticks(client: redis.Redis, broker: str):
    """DESIGN §7: beat and the control worker may be dead. Before its first claim, and then each second."""
    current = Settings(broker_url=broker, lease_ttl_s=0.5, peak_hours="00:00-24:00")
    lease = Lease(current, "gpu0@tender", pulse=Pulse(), on_tick=lambda *, tends: None, on_lost=lambda: None)
    lease.start()
    try:
        assert closed(client) == [("ai-batch", "window", None)]
        gates.reopen(client, "ai-batch", "window")
        wait_for(lambda: closed(client), "the next tick", 5)
        gates.close(client, "customer", "manual", until=server.now(client) + 0.1)
        wait_for(lambda: len(closed(client)) == 1, "the pause's end", 5)
    finally:
        lease.stop()


def test_a_tick_that_fails_ends_no_lease(client: redis.Redis, broker: str, caplog: pytest.LogCaptureFixture):
    """DESIGN §6: a fault of the windows is no reason to give a worker's jobs away."""
    client.set(keys.WINDOWS, "no hash")
    current = Settings(broker_url=broker, lease_ttl_s=0.5)
    lease = Lease(current, "gpu0@tender", pulse=Pulse(), on_tick=lambda *, tends: None, on_lost=lambda: None)
    with caplog.at_level(logging.ERROR):
        lease.start()
        try:
            wait_for(lambda: caplog.text.count("windows not reconciled") > 1, "two ticks that fail", 5)
            assert client.zscore(keys.LEASES, "gpu0@tender") > server.now(client) * 1e6
        finally:
            lease.stop()


def worker(queues: list[str]) -> SimpleNamespace:
    """What Celery says has started."""
    return SimpleNamespace(app=SimpleNamespace(amqp=SimpleNamespace(queues=SimpleNamespace(consume_from=queues))))


def test_the_control_worker_begins_with_a_tick(client: redis.Redis):
    """R2: at once, whatever beat does; device workers say no hours."""
    control.begin(worker(list(GPU_QUEUES)))
    assert store.read(client)[0] is None
    control.begin(worker([CONTROL_QUEUE]))
    plan, _ = store.read(client)
    assert plan == windows.own_plan(settings())


def test_the_task_of_beat_leads(client: redis.Redis):
    """beat_schedule.py: `mesh.windows`."""
    gates.close(client, "customer", "manual", until=1.0)
    control.windows.run()
    assert closed(client) == []
    assert store.read(client)[0] == windows.own_plan(settings())


def test_today(client: redis.Redis):
    """`gpu-mesh windows`: what holds, not what this machine would have."""
    windows.tick(client, BERLIN, at(10), leads=True)
    seen = windows.today(settings())
    assert (seen.plan.hours, seen.plan.zone, seen.plan.by) == ("mon-fri 09:00-18:00", "Europe/Berlin", "lead")
    assert seen.other is not None
    assert seen.other.hours == "none"
    local = datetime.fromtimestamp(seen.now, ZoneInfo("Europe/Berlin"))
    assert len(seen.periods) == (local.weekday() < 5)


def test_a_task_behind_a_node_that_is_paused(client: redis.Redis):
    """Issue 5 §1: it waits only where every device online is paused."""
    gates.close(client, "customer", "manual", scope="n1", by="ann")
    closures = service.read_closures(client, settings())
    device = SimpleNamespace(node="n1", worker="gpu0@n1")
    other = SimpleNamespace(node="n2", worker="gpu0@n2")
    assert closures.why("customer", [device]).startswith("customer: paused on n1 by ann since")
    assert closures.why("customer", [device, other]) is None
    assert closures.why("revenue", [device]) is None
