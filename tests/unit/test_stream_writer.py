"""A run's side of its stream: batches, bounds, a Redis that is away, a run that was replaced (issue 4 §2)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest
from waiting import wait_for

from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.services import streaming
from gpu_mesh.services.streaming import ENTRY_BYTES, StreamWriter

RUN = 7


class Redis:
    """Stands in for the stream: keeps what is put, and answers as it is told."""

    def __init__(self, answer: Callable[[], int] = lambda: RUN) -> None:
        self.entries: list[tuple[int, int, str, str]] = []
        self.answer = answer

    def __call__(self, *, run: int, at: int, text: str, thinking: str) -> int:
        answered = self.answer()
        self.entries.append((run, at, text, thinking))
        return answered

    @property
    def text(self) -> str:
        return "".join(text for _, _, text, _ in self.entries)


def writer(put: Redis, max_bytes: int = 1_000_000, **options: float) -> StreamWriter:
    return StreamWriter("a-task", put, max_bytes=max_bytes, **{"batch_s": 0.0, "retry_s": 0.0, **options})


def test_a_run_begins_before_its_first_piece():
    """DESIGN §6: a reader of the run before learns at once; the number Redis gave is used from then on."""
    redis = Redis()
    with writer(redis) as out:
        wait_for(lambda: redis.entries, "the beginning")
        out.write("a")
    assert redis.entries == [(0, 0, "", ""), (RUN, 0, "a", "")]
    assert out.run == RUN
    assert out.is_done


def test_what_arrives_together_is_one_entry():
    """Issue 4 §2: one entry per token would be too much; order and bytes before are kept, thinking apart."""
    gate = threading.Event()
    redis = Redis(lambda: gate.wait(10) and RUN)
    with writer(redis) as out:
        for token in ("naïve", " café"):
            out.write(token)
        out.write(thinking="hm")
        gate.set()
        wait_for(lambda: len(redis.entries) == 2, "the batch")
        out.write("!")
    assert redis.entries[1:] == [(RUN, 0, "naïve café", "hm"), (RUN, len("naïve caféhm".encode()), "!", "")]


def test_a_batch_is_gathered_for_a_while():
    """Issue 4 §2: tokens a millisecond apart cost a few entries, not one each."""
    redis = Redis()
    with writer(redis, batch_s=streaming.BATCH_S) as out:
        for _ in range(200):
            out.write("word ")
            threading.Event().wait(0.001)
    assert redis.text == "word " * 200
    assert len(redis.entries) < 40


def test_a_large_batch_is_several_entries():
    """Issue 4 §2: no entry grows without bound while Redis is away."""
    gate = threading.Event()
    redis = Redis(lambda: gate.wait(10) and RUN)
    with writer(redis) as out:
        for _ in range(100):
            out.write("x" * 4096)
        gate.set()
    sizes = [len(text) for _, _, text, _ in redis.entries]
    assert sum(sizes) == 100 * 4096
    assert max(sizes) <= ENTRY_BYTES


def test_what_cannot_be_kept_leaves_a_hole_that_shows():
    """Issue 4 §2: the oldest is dropped; what comes then says how much went before it."""
    gate = threading.Event()
    redis = Redis(lambda: gate.wait(10) and RUN)
    with writer(redis, max_bytes=10) as out:
        for token in ("aaaa", "bbbb", "cccc", "dddd"):
            out.write(token)
        gate.set()
    assert redis.entries == [(0, 0, "", ""), (RUN, 8, "ccccdddd", "")]
    assert out.said == 16


def test_redis_away_is_outlived_and_logged_once(caplog: pytest.LogCaptureFixture):
    """DESIGN §9: the same batch again until it is answered; nothing is said twice or lost."""
    failures = iter([True] * 5)

    def answer() -> int:
        if next(failures, False):
            raise BrokerUnavailable("Redis is away")
        return RUN

    redis = Redis(answer)
    with caplog.at_level(logging.WARNING), writer(redis) as out:
        out.write("a whole answer")
        wait_for(lambda: redis.text, "the answer")
    assert redis.entries == [(0, 0, "", ""), (RUN, 0, "a whole answer", "")]
    assert [record.getMessage() for record in caplog.records] == ["a-task streams later, going on: Redis is away"]


def test_redis_away_at_the_end_holds_nobody_up():
    """Issue 4 §2: the result has it all."""

    def away() -> int:
        raise BrokerUnavailable("Redis is away")

    redis = Redis(away)
    with writer(redis, retry_s=60.0) as out:
        out.write("a whole answer")
    assert out.is_done
    assert (out.run, redis.entries) == (0, [])


def test_a_replaced_run_writes_no_more():
    """DESIGN §6, fencing: what Redis does not take for the current run ends the writing, and the run sees it."""
    answers = iter([RUN, RUN, 0])
    redis = Redis(lambda: next(answers))
    with writer(redis) as out:
        wait_for(lambda: len(redis.entries) == 1, "the beginning")
        out.write("mine")
        wait_for(lambda: len(redis.entries) == 2, "the first piece")
        out.write("too late")
        wait_for(lambda: out.lost, "the loss")
        out.write("later still")
    assert len(redis.entries) == 3
    assert out.is_done


def test_what_nobody_foresaw_does_not_cost_the_job(caplog: pytest.LogCaptureFixture):
    """Issue 4 §2: logged with its traceback; the text is in the result."""

    def broken() -> int:
        raise ZeroDivisionError

    with writer(Redis(broken)) as out:
        out.write("a")
    assert out.is_done
    assert "a-task streams no more" in caplog.text
