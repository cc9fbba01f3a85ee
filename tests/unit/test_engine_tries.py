"""How often a job was tried again for its engine's sake, as its message says (SPEC R4)."""

from __future__ import annotations

import pytest
from celery.app.task import Context

from gpu_mesh.tasks.engine_loss import TRIES_HEADER, _tries


@pytest.mark.parametrize(("said", "tries"), [(3, 3), ("3", 0), ([], 0), (None, 0), ({"n": 3}, 0)])
def test_what_a_stranger_writes_counts_as_nothing(said: object, tries: int):
    """Any producer may set any header."""
    assert _tries(Context({TRIES_HEADER: said})) == tries


def test_the_first_run():
    assert _tries(Context({})) == 0
