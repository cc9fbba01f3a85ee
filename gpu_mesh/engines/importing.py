"""Imports in threads of a process that forks.

Python locks a module while it is imported. A child that is forked meanwhile inherits the lock, and nobody who would let
go of it: its own import of the module waits for ever.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["unforked"]

_lock = threading.Lock()


@contextmanager
def unforked() -> Iterator[None]:
    """For imports that any thread may do: meanwhile this process does not fork. The block must not fork either."""
    with _lock:
        yield


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
