"""Which jobs yield to which (SPEC R3, DESIGN §7): the rule, and how a task says what it allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_mesh.domain.preemption import (
    INTERACTIVE,
    PATIENCE_S,
    VICTIMS,
    Ask,
    Demand,
    Rules,
    Running,
    check_preemptible,
    next_victim,
    victims,
)
from gpu_mesh.errors import InvalidTask
from gpu_mesh.services.board import Board
from gpu_mesh.tasks.options import HEADER, prepare

NOW = 1000.0
RULES = Rules(after_s=0.1, limit=3)
ALL = ("w0", "w1", "w2", "w3")


def job(worker: str = "w0", queue: str = "ai-batch", ran: float = 10.0, **rest: object) -> Running:
    return Running(worker=worker, tag=worker, queue=queue, began=NOW - ran, **rest)


def chosen(jobs: list[Running], count: int = 1, fits: tuple[str, ...] = ALL) -> list[str]:
    found = victims(jobs, [Demand("ai-realtime", "1", count)], {"1": fits}, {}, now=NOW, rules=RULES)
    return [job.worker for job, _ in found]


def test_the_tiers():
    """Q5: who yields to whom."""
    assert INTERACTIVE == ("revenue", "customer", "ai-realtime")
    assert VICTIMS == ("ai-batch", "internal")


def test_the_order():
    """The lowest class first, in it the one that began last: it has least to lose."""
    jobs = [job("w0", "internal", 1), job("w1", ran=9), job("w2", ran=5), job("w3", "internal", 2)]
    assert chosen(jobs, 4) == ["w2", "w1", "w0", "w3"]
    assert chosen(jobs, 1) == ["w2"]


ASKED = Ask("ai-realtime", "1", NOW - 1)


@pytest.mark.parametrize(
    ("one", "yields"),
    [
        (job(), True),
        (job(preemptible=False), False),
        (job(queue="customer"), False),
        (job(ran=0.05), False),
        (job(ran=0.1), True),
        (job(preempted=3), False),
        (job(preempted=2), True),
        (job(worker="elsewhere"), False),
        (job(closed=frozenset({"ai-realtime"})), False),
        (job(closed=frozenset({"customer"})), True),
        (job(asked=ASKED), False),
        (job(asked=Ask("customer", "1", NOW - 60)), False),
    ],
)
def test_who_may_be_asked(one: Running, yields: bool):
    """One that is not preemptible, young, spent, does not fit or was asked already is left alone."""
    assert (next_victim([one], Demand("ai-realtime", "1", 1), ALL, now=NOW, rules=RULES) == one) is yields


def test_an_ask_serves_one_that_waits_for_a_while():
    """Not more victims than work; a victim that does not yield is not waited for."""
    other = job("w1")
    assert chosen([job(asked=ASKED), other]) == []
    assert chosen([job(asked=ASKED), other], 2) == ["w1"]
    assert chosen([job(asked=Ask("ai-realtime", "2", NOW)), other]) == ["w1"]
    assert chosen([job(asked=Ask("ai-realtime", "1", NOW - PATIENCE_S)), other]) == ["w1"]


def test_nobody_yields_while_an_idle_device_fits():
    """It has been woken."""
    for idle, count in (({"w3"}, 0), ({"w2"}, 1), (set(), 1)):
        demand = [Demand("customer", "1", 1)]
        found = victims([job()], demand, {"1": {"w0", "w3"}}, {"customer": idle}, now=NOW, rules=RULES)
        assert len(list(found)) == count


@given(
    jobs=st.lists(st.tuples(st.sampled_from(VICTIMS), st.floats(0, 5), st.booleans(), st.integers(0, 4)), max_size=8),
    counts=st.lists(st.integers(1, 4), max_size=3),
)
def test_never_more_victims_than_work(jobs, counts):
    """R3: whatever runs and waits; and no job twice."""
    running = [job(f"w{i}", q, ran, preemptible=p, preempted=n) for i, (q, ran, p, n) in enumerate(jobs)]
    demands = [Demand(queue, "1", count) for queue, count in zip(INTERACTIVE, counts, strict=False)]
    fits = {"1": {one.worker for one in running}}
    found = [one.worker for one, _ in victims(running, demands, fits, {}, now=NOW, rules=RULES)]
    able = [j for j in running if j.preemptible and j.preempted < RULES.limit and j.began + RULES.after_s <= NOW]
    assert len(found) == len(set(found)) == min(sum(counts), len(able))


@pytest.mark.parametrize("value", [True, False, "restart"])
def test_what_a_task_may_say(value: object):
    """Its header says it where somebody did; a call wins over the decorator, a retry over both."""
    assert check_preemptible(value) == value
    assert prepare("t", {"preemptible": value}, {})["headers"][HEADER]["preemptible"] == value
    assert prepare("t", {"preemptible": False}, {"preemptible": value})["headers"][HEADER]["preemptible"] == value
    before = prepare("t", {}, {"preemptible": value})["headers"]
    assert prepare("t", {"preemptible": False}, {"headers": before})["headers"][HEADER]["preemptible"] == value
    assert "preemptible" not in prepare("t", {}, {})["headers"][HEADER]


@pytest.mark.parametrize("value", [1, 0, "yes", "Restart", [], 2.0])
def test_what_it_may_not(value: object):
    """Refused where it is written."""
    with pytest.raises(InvalidTask, match="'restart'"):
        prepare("t", {}, {"preemptible": value})


def test_whom_a_board_names():
    """A run that is asked for itself made room; one that is asked with all others was stopped."""
    board = Board()
    board.take()
    assert not board.names("a")
    board.ask_all("the worker stops")
    assert not board.names("a")
    board.ask("a", "work waits")
    assert board.names("a")
    assert not board.names("b")
    board.clear("a")
    assert not board.names("a")
