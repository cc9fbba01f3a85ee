"""What a worker's parent tells its pool children, through memory they share since before the fork (DESIGN §6, §7).

Two things: until when the lease surely holds, and which runs are asked to yield, and why. The children only read. A
process that was not forked from the parent (a pool of spawned children) sees an empty board: it asks Redis whether a
claim is its worker's, and is never asked to yield.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from hashlib import blake2b

__all__ = ["BOARD", "Board", "now_ns"]

#: Words of 8 bytes: the parent's process id; when the lease ends for sure and since when it is unbroken, ns; slots
#: that were ever in use.
_OWNER, _UNTIL, _SINCE, _USED, _SLOTS = range(5)
#: Runs that can be asked at once: the most jobs a worker runs (GPU_MESH_CPU_CONCURRENCY), and all of them together.
SLOTS = 257
#: Words of a slot: whom it asks, and why.
SLOT_WORDS = 32
#: Longest reason, in bytes of UTF-8.
REASON_BYTES = (SLOT_WORDS - 1) * 8
#: Whom the first slot asks.
_ALL, _NOBODY = 1, 0
_NS = 1_000_000_000
#: Goes on while the machine sleeps, as Redis's clock does elsewhere. macOS's CLOCK_MONOTONIC does that by itself.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now_ns() -> int:
    """The clock of the lease's end, ns; the same in all processes of a machine."""
    return time.clock_gettime_ns(_CLOCK)


class Board:
    """One worker's. The parent's side may be called from any thread, `ask_all` also from a signal handler."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * (_SLOTS + SLOTS * SLOT_WORDS))
        self._words = memoryview(self._memory).cast("q")
        self._asked: dict[str, int] = {}
        self._lock = threading.Lock()

    def take(self) -> None:
        """This process is the parent from now on; nothing is said yet."""
        self._memory[:] = bytes(len(self._memory))
        self._asked.clear()
        self._words[_OWNER] = os.getpid()

    def lease_begun(self) -> None:
        """The lease is a new one: claims asked for before now are not covered by it."""
        self._words[_SINCE] = time.monotonic_ns()

    def lease_holds(self, until_ns: int) -> None:
        """The lease holds at least until then, by `now_ns`."""
        self._words[_UNTIL] = until_ns

    def lease_ended(self) -> None:
        """The lease may have ended."""
        self._words[_UNTIL] = 0

    def covers(self, asked_at: float) -> bool:
        """Whether a claim asked for at `asked_at` (s, monotonic) is surely held still; False: Redis knows."""
        # The end first: the parent writes it last.
        until = self._words[_UNTIL]
        return now_ns() < until and self._words[_SINCE] < asked_at * _NS and self._is_ours()

    def ask(self, tag: str, reason: str) -> bool:
        """Ask the run of the claim `tag` to yield, until `clear`. False when too many are asked."""
        with self._lock:
            free = set(range(1, SLOTS)) - set(self._asked.values())
            slot = self._asked.get(tag) or min(free, default=0)
            if not slot:
                return False
            self._asked[tag] = slot
            self._write(slot, _key(tag), reason)
            self._words[_USED] = max(self._words[_USED], slot + 1)
            return True

    def ask_all(self, reason: str) -> None:
        """Ask every run to yield, also those that begin later. Takes no lock: a signal handler may call it."""
        self._write(0, _ALL, reason)
        self._words[_USED] = max(self._words[_USED], 1)

    def clear(self, tag: str) -> None:
        """The run of that claim is over."""
        if tag not in self._asked:
            return
        with self._lock:
            slot = self._asked.pop(tag, 0)
            if slot:
                self._words[_SLOTS + slot * SLOT_WORDS] = _NOBODY

    def asked(self, tag: str) -> str | None:
        """Why the run of the claim `tag` is to yield; None while it may go on."""
        used = self._words[_USED]
        if not used or not self._is_ours():
            return None
        key = _key(tag)
        for slot in range(used):
            at = _SLOTS + slot * SLOT_WORDS
            if self._words[at] == (key if slot else _ALL):
                text = self._memory[8 * (at + 1) : 8 * (at + SLOT_WORDS)]
                return text.rstrip(b"\0").decode(errors="ignore")
        return None

    def names(self, tag: str) -> bool:
        """Whether the run of the claim `tag` is asked for itself, not as every run is."""
        key = _key(tag)
        slots = range(1, self._words[_USED])
        return self._is_ours() and any(self._words[_SLOTS + slot * SLOT_WORDS] == key for slot in slots)

    def _write(self, slot: int, key: int, reason: str) -> None:
        at = _SLOTS + slot * SLOT_WORDS
        # The reason before the key, by which a child finds it.
        self._memory[8 * (at + 1) : 8 * (at + SLOT_WORDS)] = reason.encode()[:REASON_BYTES].ljust(REASON_BYTES, b"\0")
        self._words[at] = key

    def _is_ours(self) -> bool:
        """Whether who writes it lives: an orphan's parent can renew nothing."""
        owner = self._words[_OWNER]
        return owner != 0 and owner in (os.getppid(), os.getpid())


def _key(tag: str) -> int:
    found = int.from_bytes(blake2b(tag.encode(), digest_size=8).digest(), "little", signed=True)
    return found if found not in (_ALL, _NOBODY) else 2


#: This worker's: the parent makes it when it loads this module, which is before it forks.
BOARD = Board()
