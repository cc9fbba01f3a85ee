"""The tokens as an API process knows them, while Redis answers and while it does not (issue 7 §2)."""

from __future__ import annotations

import asyncio
import threading

import pytest

from gpu_mesh.api.known_tokens import FRESH_S, STALE_S, USED_EVERY_S, WAIT_S, Known
from gpu_mesh.domain.tokens import Book
from gpu_mesh.errors import BrokerUnavailable


class World:
    """Redis as `ask` meets it, and a clock."""

    def __init__(self):
        self.book = Book({}, closed=True, now=1000.0)
        self.now, self.asked, self.is_away = 50.0, 0, False
        self.used = []
        self.known = Known(self.ask, lambda: self.now)

    def ask(self, used):
        self.asked += 1
        if self.is_away:
            raise BrokerUnavailable("away")
        self.used.append(set(used))
        return self.book


@pytest.fixture
def world():
    return World()


def test_asked_once_a_second_however_many_ask(world):
    """A token that is revoked is of no use 2 s later, and hundreds of requests a second ask once."""
    assert FRESH_S + WAIT_S < 2

    async def run():
        for _ in range(3):
            await asyncio.gather(*(world.known.book() for _ in range(50)))
        assert world.asked == 1
        world.now += FRESH_S + 0.01
        world.book = Book({}, closed=True, now=1002.0)
        found = await asyncio.gather(*(world.known.book() for _ in range(50)))
        assert world.asked == 2
        assert all(book is world.book for book, _ in found)

    asyncio.run(run())


def test_redis_s_clock_goes_on(world):
    async def run():
        await world.known.book()
        world.now += 0.75
        assert (await world.known.book())[1] == pytest.approx(1000.75)

    asyncio.run(run())


def test_while_redis_is_away(world):
    """What is known holds for a while; then nobody is let in, and nobody is told that his token is wrong."""

    async def run():
        known, _ = await world.known.book()
        world.is_away = True
        world.now += STALE_S - 1
        assert (await world.known.book())[0] is known
        world.now += 2
        with pytest.raises(BrokerUnavailable, match="tokens cannot be checked: away"):
            await world.known.book()
        world.is_away = False
        world.now += FRESH_S
        assert (await world.known.book())[0] is known

    asyncio.run(run())


def test_nothing_is_known_while_redis_was_never_there(world):
    async def run():
        world.is_away = True
        for _ in range(20):
            with pytest.raises(BrokerUnavailable):
                await world.known.book()
        assert world.asked == 1, "each request asked a Redis that is away"

    asyncio.run(run())


def test_a_redis_that_hangs_holds_up_nobody_who_is_known(world):
    go_on = threading.Event()

    def hanging(used):
        if world.asked:
            assert go_on.wait(30)
        return world.ask(used)

    async def run():
        known = Known(hanging, lambda: world.now)
        await known.book()
        world.now += FRESH_S + 0.01
        try:
            assert (await asyncio.wait_for(known.book(), 20))[0] is world.book
        finally:
            go_on.set()

    asyncio.run(run())


def test_a_redis_that_lost_its_data_opens_nothing(world):
    async def run():
        await world.known.book()
        assert world.known.is_closed
        for closed, expected in ((None, True), (False, False), (None, False), (True, True)):
            world.book = Book({}, closed, now=1.0)
            world.now += FRESH_S + 0.01
            await world.known.book()
            assert world.known.is_closed is expected

    asyncio.run(run())


def test_uses_are_told_once_a_minute(world):
    world.book = Book({"a": None, "b": None}, closed=True, now=1.0)

    async def run():
        for second in range(int(USED_EVERY_S) + 10):
            world.now = 50.0 + second * 1.01
            await world.known.book()
            world.known.used("a")
        assert [used for used in world.used if used] == [{"a"}, {"a"}]

    asyncio.run(run())
