"""A worker's consumers follow what is closed to it, and the thread that knows it (DESIGN §7)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu import Queue
from waiting import wait_for

from gpu_mesh.domain.queues import GPU_QUEUES
from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.store.holds import Closed
from workers.consumers import Consumers, GateWatch, Notices

#: A notice is followed at once, s: less than the timer takes.
AT_ONCE_S = 0.5


@pytest.fixture
def consumer() -> Iterator[Any]:
    """A consumer of the five queues, on Celery's own memory transport, as a worker's event loop sees it."""
    app = Celery(broker="memory://", set_as_current=False)
    app.conf.task_queues = [Queue(name) for name in GPU_QUEUES]
    with app.connection() as connection:
        found = SimpleNamespace(app=app, task_consumer=app.amqp.TaskConsumer(connection))
        found.task_consumer.consume()
        yield found
    app.close()


def shown(consumer: Any) -> list[str]:
    """What `inspect active_queues` and `inspect conf` show; they agree."""
    names = [queue.name for queue in consumer.task_consumer.queues]
    assert names == list(consumer.app.amqp.queues.consume_from)
    return names


@pytest.mark.parametrize("name", GPU_QUEUES)
def test_a_closed_queue_goes_and_comes_back_at_its_place(consumer: Any, name: str):
    consumers = Consumers()
    for _ in range(2):
        consumers.reconcile(consumer, frozenset({name, "no-queue-of-ours"}))
        assert shown(consumer) == [queue for queue in GPU_QUEUES if queue != name]
    for _ in range(2):
        consumers.reconcile(consumer, frozenset())
        assert shown(consumer) == list(GPU_QUEUES)


def test_the_channel_goes_on_asking_for_a_closed_queue(consumer: Any):
    """The claim knows when it opens before anybody looks here: no job waits for that."""
    Consumers().reconcile(consumer, frozenset({"ai-batch"}))
    assert consumer.task_consumer.consuming_from("ai-batch")


def test_all_queues_may_be_closed(consumer: Any):
    consumers = Consumers()
    consumers.reconcile(consumer, frozenset(GPU_QUEUES))
    assert shown(consumer) == []
    consumers.reconcile(consumer, frozenset())
    assert shown(consumer) == list(GPU_QUEUES)


def test_what_an_operator_cancels_stays_so(consumer: Any):
    """`cancel_consumer` while the queue is paused."""
    consumers = Consumers()
    consumers.reconcile(consumer, frozenset({"ai-batch"}))
    consumer.app.amqp.queues.deselect("ai-batch")
    consumer.task_consumer.cancel_by_queue("ai-batch")
    consumers.reconcile(consumer, frozenset())
    assert shown(consumer) == list(GPU_QUEUES[:-1])


def test_what_an_operator_adds_while_it_is_closed_waits(consumer: Any):
    """`add_consumer` of a paused queue: it is shown when it opens."""
    consumers = Consumers()
    consumers.reconcile(consumer, frozenset({"internal"}))
    consumer.app.amqp.queues.select_add(consumer.app.amqp.queues["internal"])
    consumers.reconcile(consumer, frozenset({"internal"}))
    assert "internal" not in shown(consumer)
    consumers.reconcile(consumer, frozenset())
    assert shown(consumer) == list(GPU_QUEUES)


def test_the_next_connection_consumes_all(consumer: Any):
    """A reconnect makes a new consumer of what is to be consumed: a pause must not be lost in it, nor be for ever."""
    consumers = Consumers()
    consumers.reconcile(consumer, frozenset({"ai-batch"}))
    consumers.leave(consumer)
    with consumer.app.connection() as connection:
        consumer.task_consumer = consumer.app.amqp.TaskConsumer(connection)
        assert shown(consumer) == list(GPU_QUEUES)
        # The loop has not begun to consume: hiding a queue now would keep it from ever being consumed.
        consumers.reconcile(consumer, frozenset({"ai-batch"}))
        assert shown(consumer) == list(GPU_QUEUES)
        consumer.task_consumer.consume()
        consumers.reconcile(consumer, frozenset({"ai-batch"}))
        assert shown(consumer) == list(GPU_QUEUES[:-1])


def test_a_notice_of_a_forked_child_is_read():
    """What a pool child's hooks do."""
    notices = Notices()
    notices.give()  # nobody listens yet: nothing happens
    notices.open()
    if (pid := os.fork()) == 0:
        notices.give()
        os._exit(0)
    os.waitpid(pid, 0)
    assert notices.wait(0)
    assert not notices.wait(0)


def test_a_full_pipe_holds_up_no_job():
    notices = Notices()
    notices.open()
    for _ in range(100_000):
        notices.give()
    assert notices.wait(0)


def test_a_notice_is_followed_at_once():
    """And once more a moment later, when the parent has let go of what ended."""
    looks = threading.Semaphore(0)
    closed = [Closed(), Closed(frozenset({"ai-batch"})), Closed()]

    def read() -> Closed:
        looks.release()
        return closed[0]

    notices = Notices()
    watch = GateWatch(read, notices)
    watch.start()
    try:
        assert looks.acquire(timeout=AT_ONCE_S)
        closed.pop(0)
        notices.give()
        assert looks.acquire(timeout=AT_ONCE_S)
        wait_for(lambda: watch.closed == {"ai-batch"}, "the look", AT_ONCE_S)
        closed.pop(0)
        assert looks.acquire(timeout=AT_ONCE_S)
        wait_for(lambda: watch.closed == frozenset(), "the second look", AT_ONCE_S)
    finally:
        watch.stop()


class Seconds(Notices):
    """Nobody gives notice; each wait is over at once, so many of them, then there is a stop."""

    def __init__(self, count: int, noticed: Sequence[int] = ()) -> None:
        super().__init__()
        self.count, self.noticed = count, noticed
        self.on_end: Callable[[], None] = lambda: None

    def wait(self, timeout_s: float) -> bool:
        self.count -= 1
        if self.count < 0:
            self.on_end()
        return self.count in self.noticed


@pytest.mark.parametrize(
    ("rests", "noticed", "expected"), [(False, (), 11), (True, (), 3), (True, (7,), 1 + 2 + 1)], ids=str
)
def test_a_worker_that_rests_looks_less_often(rests: bool, noticed: Sequence[int], expected: int):
    """H9: without device and job every fifth time; a notice is heeded at once."""
    looks: list[float] = []

    def read() -> Closed:
        looks.append(1)
        return Closed()

    seconds = Seconds(10, noticed)
    watch = GateWatch(read, seconds, rests=lambda: rests)
    found = 0

    def end() -> None:
        nonlocal found
        found = found or len(looks)
        watch._stopping.set()

    seconds.on_end = end
    watch._run()
    assert found == expected


@pytest.mark.parametrize("error", [BrokerUnavailable("redis://db", "away"), ValueError("nonsense")])
def test_what_was_known_last_holds_while_redis_is_away(error: Exception):
    """Nor does an error end the thread."""
    answers: list[Any] = [Closed(frozenset({"ai-batch"})), error, Closed()]

    def read() -> Closed:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    watch = GateWatch(read, Notices())
    for expected in ({"ai-batch"}, {"ai-batch"}, frozenset()):
        watch.look()
        assert watch.closed == expected
