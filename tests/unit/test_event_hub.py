"""Everybody who listens to the mesh's events: who hears what, who is slow, who comes back (issue 7 §1)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any

import pytest

from gpu_mesh.api.events.hub import Hub, Wanted
from gpu_mesh.domain.happenings import happened

#: Of a test's wait, s.
LIMIT_S = 10.0


class Feed:
    """A feed that the test drives; it counts its runs."""

    def __init__(self) -> None:
        self.runs = 0
        self.publish: Callable[[Iterable[dict[str, Any]]], None] | None = None

    async def __call__(self, publish: Callable[[Iterable[dict[str, Any]]], None]) -> None:
        self.runs += 1
        self.publish = publish
        publish([happened("mesh.connected", 0.0)])
        await asyncio.Event().wait()

    def send(self, *numbers: int, type: str = "task.sent", queue: str = "customer") -> None:
        assert self.publish is not None
        self.publish([happened(type, 1.0, task_id=str(number), queue=queue) for number in numbers])


def run(test: Callable[[Hub, Feed], Awaitable[None]], **options: Any) -> None:
    async def within() -> None:
        feed = Feed()
        hub = Hub(feed, **options)
        try:
            await asyncio.wait_for(test(hub, feed), LIMIT_S)
        finally:
            hub.close()

    asyncio.run(within())


async def hear(stream: AsyncGenerator[bytes]) -> dict[str, Any]:
    """The next event, with its id."""
    while not (told := await anext(stream)):
        pass
    lines = dict(line.split(": ", 1) for line in told.decode().splitlines() if line)
    return {**json.loads(lines["data"]), "id": lines.get("id")}


async def begin(hub: Hub, wanted: Wanted | None = None, last_id: str | None = None) -> AsyncGenerator[bytes]:
    """A listener that is connected."""
    stream = hub.listen(wanted or Wanted(), last_id)
    assert (await hear(stream))["type"] == "mesh.connected"
    return stream


def test_each_hears_what_it_wants():
    """By type, by group, by queue, by task."""

    async def test(hub: Hub, feed: Feed) -> None:
        wants = [
            (Wanted(), "1"),
            (Wanted(types=frozenset({"task"})), "1"),
            (Wanted(types=frozenset({"task.failed"})), "2"),
            (Wanted(queue="ai-batch"), "3"),
            (Wanted(task_id="3"), "3"),
        ]
        streams = [await begin(hub, wanted) for wanted, _ in wants]
        feed.send(1)
        feed.send(2, type="task.failed")
        feed.send(3, queue="ai-batch")
        assert [(await hear(stream))["task_id"] for stream in streams] == [first for _, first in wants]
        assert feed.runs == 1

    run(test)


def test_a_slow_client_is_told_how_many_it_missed_and_slows_nobody():
    """Its buffer is bounded; it goes on with the newest."""

    async def test(hub: Hub, feed: Feed) -> None:
        slow, fast = await begin(hub), await begin(hub)
        feed.send(*range(12))
        assert [(await hear(slow))["type"] for _ in range(1)] == ["lagged"]
        assert [(await hear(slow))["task_id"] for _ in range(4)] == ["8", "9", "10", "11"]
        lagged = await hear(fast)
        assert lagged["missed"] == 8
        feed.send(12)
        await hear(slow)

    run(test, kept=4)


def test_who_comes_back_hears_what_it_missed():
    """Last-Event-ID: exactly what follows it, and what it wanted of that, once."""

    async def test(hub: Hub, feed: Feed) -> None:
        first = await begin(hub, Wanted(queue="customer"))
        feed.send(1)
        last = (await hear(first))["id"]
        await first.aclose()
        feed.send(2, 3)
        feed.send(4, queue="ai-batch")
        second = await begin(hub, Wanted(queue="customer"), last)
        feed.send(5)
        assert [(await hear(second))["task_id"] for _ in range(3)] == ["2", "3", "5"]

    run(test)


def test_who_was_away_too_long_is_told_so():
    """More happened than is kept."""

    async def test(hub: Hub, feed: Feed) -> None:
        first = await begin(hub)
        feed.send(1)
        last = (await hear(first))["id"]
        feed.send(*range(2, 9))
        second = await begin(hub, last_id=last)
        told = await hear(second)
        assert (told["type"], told["missed"]) == ("missed", 3)
        assert (await hear(second))["task_id"] == "5"

    run(test, kept=4)


@pytest.mark.parametrize("last_id", ["00000000-1", "junk", "", "00000000-99999999999999999999"])
def test_an_id_of_another_process_says_nothing_here(last_id: str):
    """It is told that it may have missed something, and hears all that follows."""

    async def test(hub: Hub, feed: Feed) -> None:
        stream = hub.listen(Wanted(), last_id)
        told = {(await hear(stream))["type"], (await hear(stream))["type"]}
        assert told == {"mesh.connected", "missed"}
        feed.send(1)
        assert (await hear(stream))["task_id"] == "1"

    run(test)


def test_the_feed_runs_while_somebody_listens_and_a_little_longer():
    """Idle it costs nothing; a client that comes back at once finds it as it was."""

    async def test(hub: Hub, feed: Feed) -> None:
        assert not hub.is_running
        first, second = await begin(hub), await begin(hub)
        await first.aclose()
        assert hub.is_running
        await second.aclose()
        while hub.is_running:
            await asyncio.sleep(0)
        third = await begin(hub)
        assert feed.runs == 2
        await third.aclose()

    run(test, linger_s=0.0)


def test_a_feed_that_lost_redis_says_so_to_all():
    """Whatever they wanted."""

    async def test(hub: Hub, feed: Feed) -> None:
        stream = await begin(hub, Wanted(types=frozenset({"alert"})))
        assert feed.publish is not None
        feed.publish([happened("mesh.disconnected", 1.0, why="away")])
        feed.publish([happened("mesh.connected", 2.0, away_s=1.0)])
        assert [(await hear(stream))["type"] for _ in range(2)] == ["mesh.disconnected", "mesh.connected"]

    run(test)
