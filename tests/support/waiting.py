"""Waiting for a condition with a deadline: the tests' only clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

#: Between two looks, s.
POLL_S = 0.02


def wait_for(condition: Callable[[], T], what: str, timeout_s: float = 20.0) -> T:
    """The first true value of `condition`; AssertionError naming `what` when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {what}"
        time.sleep(POLL_S)
    return value


def wait_gone(path: str | Path, timeout_s: float) -> None:
    """Wait until the file is gone: how tests hold a task."""
    wait_for(lambda: not Path(path).exists(), f"the end of {path}", timeout_s)
