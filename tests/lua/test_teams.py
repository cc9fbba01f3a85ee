"""Jobs of several devices, and standbys of critical ones (issue 3; SPEC P1, P5)."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from claiming import MAX_DELIVERIES, Device, new_tag, publish, waiting

from gpu_mesh.domain.claim import Rules
from gpu_mesh.domain.queues import Band
from gpu_mesh.store import claims, cordons, holds, leases, ranking

PAIR = {"gpu_count": 2}


class Sibling(Device):
    """A device of a node with two; it fits everything."""

    def judge(self, text: str) -> tuple[bool, str | None]:
        return True, None

    def claim(self, most: int = 1000) -> Any:
        """As the real claimer: it knows the teams of needs it judged."""
        number = self.client.hget("gpumesh:needs", f"={json.dumps(PAIR)}")
        self.teams = {number: (1, [f"gpu{i}@node" for i in (0, 1) if f"gpu{i}@node" != self.worker])} if number else {}
        return super().claim(most)


@pytest.fixture
def pair(client: redis.Redis) -> list[Sibling]:
    """Two devices of one node, with leases."""
    return [Sibling(client, f"gpu{i}@node", rules=Rules(gather_s=3600.0)).start() for i in (0, 1)]


def send(client: redis.Redis, queue: str = "ai-batch", needs: dict[str, Any] | None = None) -> str:
    tag = new_tag()
    publish(client, queue, Band.NORMAL, needs or {}, tag)
    return tag


def occupy(client: redis.Redis, device: Device) -> str:
    """Have the device run something; its tag."""
    tag = send(client)
    assert device.claim().tag == tag
    return tag


def test_a_job_of_two_takes_the_idle_sibling(client, pair):
    """P1: in one step; the sibling claims nothing until the job is done, and is woken then."""
    first, second = pair
    assert second.claim() is None
    tag = send(client, needs=PAIR)
    client.delete("gpumesh:wake:gpu1@node", "gpumesh:wake:gpu0@node")
    claimed = first.claim()
    assert (claimed.tag, claimed.siblings) == (tag, ("gpu1@node",))
    other = send(client, "revenue")
    assert second.claim() == claims.Refused("serves a job of gpu0@node")
    assert client.keys("gpumesh:wake:*") == []
    assert first.ack(tag)
    assert client.keys("gpumesh:wake:*") == ["gpumesh:wake:gpu1@node"]
    assert second.claim().tag == other


@pytest.mark.parametrize("ending", ["ack", "hand back", "bury", "reap"])
def test_the_sibling_is_free_however_the_job_ends(client, pair, ending):
    """P1: also when the holder dies."""
    first, second = pair
    tag = send(client, needs=PAIR)
    assert first.claim().tag == tag
    if ending == "ack":
        first.ack(tag)
    elif ending == "hand back":
        claims.hand_back(client, first.worker, tag, counts=True, max_deliveries=MAX_DELIVERIES)
    elif ending == "bury":
        claims.bury(client, first.worker, tag, why="test")
    else:
        leases.reap(client, worker=first.worker, max_deliveries=MAX_DELIVERIES)
        first.start()
    single = send(client, "revenue")
    assert second.claim().tag == single


def test_the_job_waits_for_a_busy_sibling_which_is_kept_for_it(client, pair):
    """The oldest job of two holds devices as they come free: newer work of its class does not pass it for ever."""
    first, second = pair
    running = occupy(client, second)
    job = send(client, needs=PAIR)
    later = [send(client) for _ in range(3)]
    assert first.claim() is None
    urgent = send(client, "customer")
    assert first.claim().tag == urgent  # what is more important does pass
    first.ack(urgent)
    second.ack(running)
    claimed = second.claim()
    assert (claimed.tag, claimed.siblings) == (job, ("gpu0@node",))
    second.ack(job)
    assert [first.claim().tag, second.claim().tag] == later[:2]


def test_devices_are_kept_for_a_bounded_time(client, pair):
    """Nobody waits forever: then others go first for as long, and the job takes its chance."""
    first, second = pair
    for device in pair:
        device.rules = Rules(gather_s=0.001)
    occupy(client, second)
    send(client, needs=PAIR)
    single = send(client)
    assert first.claim() is None  # this claim began to keep it
    for device in pair:
        device.rules = Rules(gather_s=3600.0)
    kept = client.hget("gpumesh:gather", "node").split("\t")
    client.hset("gpumesh:gather", "node", "\t".join([*kept[:3], "1", f"{(client.time()[0] + 3600) * 10**6}"]))
    assert first.claim().tag == single


def test_devices_need_not_be_kept(client, pair):
    """An operator may say so: others go first until enough are idle by chance."""
    first, second = pair
    for device in pair:
        device.rules = Rules(gather_s=0.0)
    occupy(client, second)
    send(client, needs=PAIR)
    single = send(client)
    assert first.claim().tag == single


def test_a_more_important_job_of_two_takes_over(client, pair):
    first, second = pair
    running = occupy(client, second)
    batch = send(client, needs=PAIR)
    assert first.claim() is None
    customer = send(client, "customer", needs=PAIR)
    assert first.claim() is None
    assert client.hget("gpumesh:gather", "node").startswith("2|normal|customer:6\t")
    second.ack(running)
    assert second.claim().tag == customer
    second.ack(customer)
    assert first.claim().tag == batch


def test_a_job_of_two_needs_living_siblings(client, pair):
    first, _ = pair
    job = send(client, needs=PAIR)
    client.zrem("gpumesh:leases", "gpu1@node")
    assert first.claim() is None
    assert waiting(client) == [job]


def ranked(client: redis.Redis, scores: dict[str, float]) -> list[Device]:
    """Devices that are ranked for critical work."""
    devices = [Device(client, worker).start() for worker in scores]
    for worker, score in scores.items():
        ranking.rank(client, worker, "1", {"critical": score})
    return devices


def test_a_critical_task_names_a_standby_that_is_woken_first(client):
    """P5: the best other device, on another node if there is one."""
    scores = {"gpu0@a": 0.9, "gpu1@a": 0.8, "gpu0@b": 0.7, "gpu0@c": 0.6}
    first, *others = ranked(client, scores)
    tag = new_tag()
    publish(client, "customer", Band.CRITICAL, {}, tag)
    assert first.claim().standby == "gpu0@b"
    for device in (others[2], others[0], others[1]):
        assert device.claim() is None
    client.delete(*client.keys("gpumesh:wake:*") or ["none"])
    leases.reap(client, worker=first.worker, max_deliveries=MAX_DELIVERIES)
    assert client.keys("gpumesh:wake:*") == ["gpumesh:wake:gpu0@b"]


def test_a_standby_lives_and_is_named_for_critical_work_only(client):
    first, *_ = ranked(client, {"gpu0@a": 0.9, "gpu0@b": 0.8, "gpu1@a": 0.7})
    client.zadd("gpumesh:leases", {"gpu0@b": 1})
    publish(client, "customer", Band.CRITICAL, {}, new_tag())
    assert first.claim().standby == "gpu1@a"
    first.held.clear()
    client.delete("gpumesh:claims:gpu0@a")
    publish(client, "customer", Band.HIGH, {}, new_tag())
    assert first.claim().standby == ""


@pytest.mark.parametrize("away", ["cordoned", "gone"])
def test_nothing_is_kept_for_a_job_whose_sibling_is_away(client, pair, away):
    """P1, F4: a device that is ill may be so for hours, and the others would stand idle for half of them."""
    first, second = pair
    job = send(client, needs=PAIR)
    single = send(client)
    if away == "cordoned":
        cordons.cordon(client, second.worker, "health", why="off the bus")
    else:
        client.zrem("gpumesh:leases", second.worker)
    assert first.claim().tag == single
    first.ack(single)
    cordons.lift(client, second.worker, "health")
    second.start()
    assert first.claim().tag == job


@pytest.mark.parametrize(("own", "holds_for"), [(None, 5.0), (60.0, 5.0), (1.0, 1.0)])
def test_a_job_of_two_leaves_with_its_sibling(client, pair, own, holds_for):
    """F4: it computes on both; of two times to yield the shortest holds. The sibling's worker has nothing to yield."""
    first, second = pair
    tag = send(client, needs=PAIR)
    assert first.claim().tag == tag
    cordons.cordon(client, second.worker, "drain", why="card needed")
    assert holds.closed_to(client, first.worker).leave is None
    if own is not None:
        cordons.cordon(client, first.worker, "drain", why="card needed", yield_s=own)
    cordons.cordon(client, second.worker, "health", why="off the bus", yield_s=5.0)
    assert holds.closed_to(client, first.worker).leave.within_s == holds_for
    first.ack(tag)
    cordons.lift(client, first.worker, "drain")
    assert holds.closed_to(client, first.worker).leave is None
