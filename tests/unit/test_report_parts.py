"""Parts of a report that hang, fail or come late (SPEC H1)."""

from __future__ import annotations

import threading

import pytest
from waiting import wait_for

from gpu_mesh.services.parts import Late, Part


def test_what_is_taken_and_what_fails() -> None:
    answers = iter([1, 2])

    def take() -> int:
        try:
            return next(answers)
        except StopIteration:
            raise ValueError("no more") from None

    part = Part("numbers", take)
    for expected in (1, 2):
        part.begin()
        assert part.get(20) == expected
    part.begin()
    with pytest.raises(ValueError, match="no more"):
        part.get(20)


def test_a_timeout_of_its_own_is_no_lateness() -> None:
    def take() -> None:
        raise TimeoutError("the disk")

    part = Part("disk", take)
    part.begin()
    with pytest.raises(TimeoutError, match="the disk"):
        part.get(20)


def test_what_hangs_is_begun_once() -> None:
    """H1: a driver that hangs costs one thread, not one for each check."""
    let_go, begun = threading.Event(), []

    def take() -> int:
        begun.append(1)
        let_go.wait(20)
        return len(begun)

    part = Part("driver", take)
    for _ in range(3):
        part.begin()
        with pytest.raises(Late, match="not known after"):
            part.get(0.01)
    let_go.set()
    wait_for(lambda: part.get(20) == 1, "its end")
    part.begin()
    assert part.get(20) == 2
