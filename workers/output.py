"""What children print, as one stream of lines: whole, in order, bounded, and never holding a child up for ever."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from io import RawIOBase
from types import TracebackType

__all__ = ["LineFeed", "OnLine", "split_lines"]

logger = logging.getLogger(__name__)

#: Called with a child's name and one line of its output, without the line end.
OnLine = Callable[[str, str], None]

#: A line longer than this is handed on in pieces, in bytes.
LONGEST_LINE = 64 * 1024

#: Lines that wait to be handed on before those who print have to wait, in lines.
CAPACITY_LINES = 1_000

#: How long a full feed holds a child up before its lines are dropped and counted, in seconds. A terminal
#: stopped with Ctrl-S must not stop a worker's lease.
PATIENCE_S = 5.0

#: How long the end of a feed waits for the last lines to be handed on, in seconds.
CLOSE_S = 5.0


class LineFeed:
    """Hands the lines of all children to one callback, one at a time, from a thread of its own.

    A context manager. Children may `put` from any thread.
    """

    def __init__(self, on_line: OnLine, *, capacity: int = CAPACITY_LINES, patience_s: float = PATIENCE_S) -> None:
        self._on_line = on_line
        self._capacity = capacity
        self._patience_s = patience_s
        self._changed = threading.Condition()
        self._lines: deque[tuple[str, str]] = deque()
        self._dropped: Counter[str] = Counter()
        self._handing = False
        self._closed = False
        self._complained = False
        self._thread = threading.Thread(target=self._run, name="line-feed", daemon=True)

    def __enter__(self) -> LineFeed:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(CLOSE_S)

    def put(self, name: str, line: str) -> None:
        """Queue one line. Waits at most `patience_s` for room; from then on the child's lines are dropped and
        counted until there is room again. After the end of the feed they go nowhere."""
        with self._changed:
            patience = 0.0 if self._dropped[name] else self._patience_s
            if not self._changed.wait_for(self._has_room, patience):
                self._dropped[name] += 1
                return
            if self._closed:
                return
            self._lines.append((name, line))
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all lines put so far were handed on; False where that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._lines and not self._handing, timeout_s)

    def _has_room(self) -> bool:
        return len(self._lines) < self._capacity or self._closed

    def _run(self) -> None:
        while batch := self._take():
            for name, line in batch:
                self._hand_on(name, line)
            with self._changed:
                self._handing = False
                self._changed.notify_all()

    def _take(self) -> list[tuple[str, str]]:
        """All that waits; empty only when closed and drained."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._dropped.total() or self._closed)
            batch = list(self._lines)
            batch += [
                (name, f"[{count} lines left out: nobody took them]") for name, count in self._dropped.items() if count
            ]
            self._lines.clear()
            self._dropped.clear()
            self._handing = bool(batch)
            self._changed.notify_all()
            return batch

    def _hand_on(self, name: str, line: str) -> None:
        try:
            self._on_line(name, line)
        except Exception:
            # Once: a closed terminal would otherwise fill the log with one traceback per line.
            if not self._complained:
                logger.exception("output of %s could not be shown", name, extra={"action": "show_line", "child": name})
            self._complained = True


def split_lines(stream: RawIOBase) -> Iterator[str]:
    """Lines of an unbuffered stream up to its end, as soon as they are whole; the last one also without a line end.

    Undecodable bytes become U+FFFD; a line of more than `LONGEST_LINE` bytes comes in pieces.
    """
    rest = b""
    while data := stream.read(LONGEST_LINE):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield from _pieces(line)
        while len(rest) > LONGEST_LINE:
            cut = _cut(rest)
            yield _text(rest[:cut])
            rest = rest[cut:]
    if rest:
        yield from _pieces(rest)


def _pieces(line: bytes) -> Iterator[str]:
    while len(line) > LONGEST_LINE:
        cut = _cut(line)
        yield _text(line[:cut])
        line = line[cut:]
    yield _text(line)


def _cut(line: bytes) -> int:
    """Where to cut, so that no UTF-8 character (at most 4 bytes) is cut in two."""
    for cut in range(LONGEST_LINE, LONGEST_LINE - 4, -1):
        if line[cut] & 0xC0 != 0x80:
            return cut
    return LONGEST_LINE


def _text(line: bytes) -> str:
    return line.removesuffix(b"\r").decode(errors="replace")
