"""The thread by which a worker's parent has its jobs yield: what it hears, and what it does about it (DESIGN §7)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker.state import reserved_requests, task_ready, task_reserved
from waiting import wait_for

from gpu_mesh.domain.preemption import Preemptible
from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.store.preemption import Asked
from workers.preemption import Preemption
from workers.request import BEGUN, MeshRequest


class Request(MeshRequest):
    """A job that runs, and what is done to it."""

    queue = "ai-batch"
    preemptible: Preemptible = True
    may_be_preempted = True
    task, name = SimpleNamespace(acks_late=True), "t"

    def send_event(self, type: str, **fields: Any) -> None:
        """Nobody listens."""

    def __init__(self, tag: str, preemptible: Preemptible = True) -> None:
        self.id = tag
        self._message = SimpleNamespace(delivery_tag=tag)
        self.preemptible = preemptible
        self.done: list[str] = []

    def preempt(self, pool: Any, queue: str, *, kill: bool) -> None:
        self.preempted_for = queue
        self.done.append(f"{'kill' if kill else 'ask'} for {queue}")

    def excuse(self) -> None:
        self.preempted_for = None
        self.done.append("excuse")


class Ear:
    """Hears what a test says; looks find what it says is there."""

    def __init__(self) -> None:
        self.found = Asked()
        self.said: SimpleQueue[tuple[str, str] | Exception | None] = SimpleQueue()
        self.told: list[str] = []
        self.unless: Callable[[], bool] | None = None

    def look(self, *, fresh: bool) -> Asked:
        self.told.append("fresh look" if fresh else "look")
        return self.found

    def wait(self, timeout_s: float, unless: Callable[[], bool]) -> tuple[str, str] | None:
        self.unless = unless
        said = self.said.get()
        if isinstance(said, Exception):
            raise said
        return said

    def spare(self, tag: str, queue: str) -> None:
        self.told.append(f"spare {tag} of {queue}")

    def forget(self) -> None:
        self.told.append("forget")

    def close(self) -> None:
        self.said.put(None)


@pytest.fixture
def ear() -> Iterator[Ear]:
    found = Ear()
    thread = Preemption(SimpleNamespace(pool=None), found, after_s=0.0)
    thread.start()
    yield found
    thread.stop()
    BEGUN.clear()


@pytest.fixture
def job() -> Iterator[Request]:
    yield from _running(Request("a"))


def _running(request: Request) -> Iterator[Request]:
    reserved_requests.add(request)
    BEGUN.set()
    yield request
    reserved_requests.discard(request)


def test_it_does_what_it_hears(job: Request, ear: Ear):
    """Once, also when it is said again; what is said of a job that is over is nothing to it."""
    for said in (("gone", "customer"), ("a", "customer"), ("a", "revenue"), None):
        ear.said.put(said)
    ear.found = Asked({"a": "customer"})
    wait_for(lambda: ear.said.empty() and job.done, "the ask")
    assert job.done == ["ask for customer"]


def test_a_notice_that_was_lost_is_found_by_a_look(job: Request, ear: Ear):
    """And an ask whose cause is gone is taken back."""
    wait_for(lambda: ear.told == ["fresh look"], "the first look")
    ear.found = Asked({"a": "ai-realtime"})
    ear.said.put(None)
    wait_for(lambda: job.done == ["ask for ai-realtime"], "the ask")
    ear.found = Asked()
    ear.said.put(None)
    wait_for(lambda: job.done[1:] == ["excuse"], "the excuse")
    assert ear.told == ["fresh look", "look", "look"]


def test_it_waits_no_longer_when_another_job_begins(job: Request, ear: Ear):
    """That one is to be looked after as soon as it may be asked."""
    unless = wait_for(lambda: ear.unless, "the wait")
    assert not unless()
    BEGUN.set()
    assert unless()


def test_who_is_told_to_look_counts_what_just_came(job: Request, ear: Ear):
    """Needs that nobody has judged: the message is a moment old."""
    ear.said.put(("", ""))
    wait_for(lambda: ear.told == ["fresh look", "fresh look"], "the second look")


def test_a_task_that_came_back_hears_the_ask_itself(job: Request, ear: Ear):
    """Its run before had the same delivery tag, and is over: asked in its place, nobody would yield."""
    wait_for(lambda: ear.told == ["fresh look"], "the first look")
    reserved_requests.discard(job)
    for again in _running(Request("a")):
        ear.said.put(("a", "customer"))
        wait_for(lambda: len(ear.told) == 2, "the look after it")
        assert (job.done, again.done[:1]) == ([], ["ask for customer"])


@pytest.mark.parametrize(("preemptible", "done"), [("restart", ["kill for customer"]), (False, [])])
def test_what_the_task_says(ear: Ear, preemptible: Preemptible, done: list[str]):
    """`restart` is killed; `False` is spared before anything else, whatever its message says."""
    ear.found = Asked({"a": "customer"})
    for request in _running(Request("a", preemptible)):
        ear.said.put(("a", "customer"))
        ear.said.put(None)
        wait_for(lambda: ear.said.empty() and "look" in ear.told, "the look after it")
        assert request.done == done
        assert (ear.told[0] == "spare a of ai-batch") is (preemptible is False)


def test_it_outlives_a_redis_that_is_away(job: Request, ear: Ear):
    """It judges anew then: the numbers of needs may be others."""
    ear.said.put(BrokerUnavailable("away"))
    wait_for(lambda: ear.told == ["fresh look", "forget", "fresh look"], "a look after the outage")


class Over(Request):
    """A job that is over; how often somebody looked."""

    looks = 0

    @property
    def may_be_preempted(self) -> bool:
        self.looks += 1
        return False


def test_a_job_that_begins_late_is_listened_for(ear: Ear):
    """Celery keeps one with a rate limit for a while: who listens has found nobody by then, and sleeps."""
    over, late = Over("over"), Request("a")
    for _ in _running(over):
        wait_for(lambda: over.looks == 2, "a look that finds nobody")  # at what is spared, and at what runs
        ear.found = Asked({"a": "customer"})
        task_reserved(late)
        late.on_accepted(1, time.monotonic())
        try:
            wait_for(lambda: late.done == ["ask for customer"], "the ask")
        finally:
            task_ready(late)
