"""What a thread of a process that forks must not be in the middle of at the fork.

Python locks a module while it is imported, OpenSSL its own data while it makes a context or speaks with a server. A
child that is forked meanwhile inherits the lock, and nobody who would let go of it: it waits for ever.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from gpu_mesh.engines.base import Engine, EngineStatus

__all__ = ["check_unforked", "unforked"]

_lock = threading.RLock()


@contextmanager
def unforked() -> Iterator[None]:
    """For what any thread may do: meanwhile this process does not fork. The block must not fork either."""
    with _lock:
        yield


def check_unforked(engine: Engine) -> EngineStatus:
    """`engine.check()` in a thread beside the one that forks: over TLS no fork comes between."""
    with unforked() if (engine.url or "").startswith("https:") else nullcontext():
        return engine.check()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
