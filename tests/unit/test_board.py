"""What a parent tells its children: the lease's end, and who is to yield (DESIGN §6, §7)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest

from gpu_mesh.services.board import REASON_BYTES, SLOTS, Board, now_ns

LATER_NS = 60_000_000_000


@pytest.fixture
def board() -> Iterator[Board]:
    """A board of this process."""
    board = Board()
    board.take()
    return board


def in_child(question: Callable[[], bool], generations: int = 1) -> bool:
    """The answer of a process forked from this one, or from such a one."""
    pid = os.fork()
    if pid == 0:
        try:
            answer = in_child(question, generations - 1) if generations > 1 else question()
            os._exit(0 if answer else 1)
        finally:
            os._exit(2)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 1)
    return code == 0


def test_a_child_knows_that_the_lease_holds(board: Board):
    """DESIGN §6: what the parent writes after the fork, too."""
    board.lease_begun()
    asked_at = time.monotonic()
    board.lease_holds(now_ns() + LATER_NS)
    assert board.covers(asked_at)
    assert in_child(lambda: board.covers(asked_at))
    board.lease_ended()
    assert not board.covers(asked_at)
    assert not in_child(lambda: board.covers(asked_at))


def test_nothing_is_sure_before_the_lease_and_after_its_end(board: Board):
    """DESIGN §6: then Redis is asked."""
    asked_at = time.monotonic()
    assert not board.covers(asked_at)
    board.lease_holds(now_ns())
    assert not board.covers(asked_at)
    board.lease_holds(now_ns() + LATER_NS)
    assert board.covers(asked_at)


def test_a_claim_of_a_lease_before_is_not_covered(board: Board):
    """DESIGN §6: lost and begun anew: what was claimed before may run elsewhere."""
    before = time.monotonic()
    board.lease_begun()
    board.lease_holds(now_ns() + LATER_NS)
    assert not board.covers(before)
    assert board.covers(time.monotonic())


def test_only_the_children_of_a_living_parent_trust_it(board: Board):
    """DESIGN §6: whose parent is another one knows nothing: an orphan's lease is nobody's."""
    board.lease_holds(now_ns() + LATER_NS)
    board.ask_all("stop")
    asked_at = time.monotonic()
    assert not in_child(lambda: board.covers(asked_at), generations=2)
    assert not in_child(lambda: board.asked("a") is not None, generations=2)
    fresh = Board()
    fresh.lease_holds(now_ns() + LATER_NS)
    assert not fresh.covers(asked_at)


def test_asking_one_of_several(board: Board):
    """DESIGN §7: by its claim, until its run is over."""
    assert board.asked("a") is None
    assert board.ask("a", "interactive work waits")
    assert board.ask("b", "drained")
    assert board.asked("a") == "interactive work waits"
    assert in_child(lambda: board.asked("b") == "drained")
    assert board.asked("c") is None
    board.clear("a")
    board.clear("never asked")
    assert board.asked("a") is None
    assert board.asked("b") == "drained"
    assert board.ask("b", "other")
    assert board.asked("b") == "other"


def test_asking_all(board: Board):
    """DESIGN §6: also runs that begin later; a new parent begins anew."""
    board.ask_all("the worker stops")
    assert board.asked("a") == board.asked("b") == "the worker stops"
    board.take()
    assert board.asked("a") is None


def test_as_many_as_a_worker_runs(board: Board):
    """GPU_MESH_CPU_CONCURRENCY is 256 at most; slots are used again."""
    tags = [f"tag{i}" for i in range(SLOTS - 1)]
    assert all(board.ask(tag, tag) for tag in tags)
    assert not board.ask("one more", "")
    assert [board.asked(tag) for tag in tags] == tags
    board.clear("tag7")
    assert board.ask("one more", "now")
    assert board.asked("one more") == "now"


def test_a_long_reason_is_cut(board: Board):
    """In the middle of no letter."""
    board.ask("a", "é" * REASON_BYTES)
    board.ask("b", "next")
    assert board.asked("a") == "é" * (REASON_BYTES // 2)
    assert board.asked("b") == "next"
