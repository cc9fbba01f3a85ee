"""The pool of a worker's processes (DESIGN §6)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from workers.prefork import KeepingPool


@pytest.mark.parametrize(
    ("codes", "started"),
    [([None], True), ([None, -9], True), ([-15], True), ([None, 0], False), ([1], False)],
)
def test_a_child_that_is_killed_at_the_start_ends_no_worker(codes: list[int | None], started: bool):
    """Found by the storm: a worker that had just been started died with its child."""
    pool = SimpleNamespace(_pool=[SimpleNamespace(exitcode=code) for code in codes])
    assert KeepingPool.did_start_ok(pool) is started
