"""What a script prints: lines of bounded length, the messages among them, and how much of it the log shows."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["KINDS", "Line", "LogPace", "Message", "NotJson", "Splitter", "Tail", "parse", "shown", "too_long"]

#: What a script may tell, one JSON object with one of these names a line.
KINDS = ("progress", "result", "checkpoint")
#: Characters of a line that the log shows.
SHOWN_CHARS = 2000
#: Lines a second that the log shows for long, and at once.
LINES_PER_S, BURST_LINES = 50.0, 500.0
#: How much of standard error an error repeats, bytes.
TAIL_BYTES = 4096
_ENDS = re.compile(rb"[\r\n]")
_BEGINS = re.compile(rb'\s*\{\s*"(result|checkpoint)"\s*:')


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a script's output."""

    data: bytes
    #: Whether its rest was dropped.
    cut: bool = False
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """What a line tells the mesh; `kind` is one of KINDS."""

    kind: str
    value: Any


class NotJson(ValueError):
    """A result or checkpoint with a number that JSON has not, which `json.dumps` writes all the same."""


class Splitter:
    """Cuts one stream into lines (also at `\\r`: progress bars) of at most `limit` bytes. Empty ones are left out."""

    def __init__(self, limit: int, *, is_error: bool = False) -> None:
        self._limit, self._is_error = limit, is_error
        self._held = bytearray()
        self._cut = False

    def feed(self, data: bytes) -> Iterator[Line]:
        """The lines that `data` completes."""
        *whole, rest = _ENDS.split(data)
        for part in whole:
            self._hold(part)
            yield from self.end()
        self._hold(rest)

    def end(self) -> Iterator[Line]:
        """What is left without a line's end."""
        if self._held:
            yield Line(bytes(self._held), self._cut, self._is_error)
        self._held, self._cut = bytearray(), False

    def _hold(self, part: bytes) -> None:
        room = self._limit - len(self._held)
        self._cut = self._cut or len(part) > room
        self._held += part[:room]


class Tail:
    """The last bytes of a stream, as text."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> None:
        """Keep the end of it."""
        self._data = (self._data + data[-TAIL_BYTES:])[-TAIL_BYTES:]

    def __str__(self) -> str:
        return "\n".join(_printable(line) for line in self._data.decode(errors="replace").splitlines()).strip()


class LogPace:
    """How many lines the log shows; the others are counted."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._room, self._at = BURST_LINES, clock()
        self._dropped = 0

    def allows(self) -> bool:
        """Whether one more line is shown."""
        now = self._clock()
        self._room = min(BURST_LINES, self._room + (now - self._at) * LINES_PER_S)
        self._at = now
        if self._room < 1:
            self._dropped += 1
            return False
        self._room -= 1
        return True

    def dropped(self) -> int:
        """Lines not shown since it was last asked."""
        found, self._dropped = self._dropped, 0
        return found


def parse(line: Line) -> Message | None:
    """The message of a line; None for plain output, which whatever else is malformed is. Raises NotJson."""
    if line.cut or line.is_error or not line.data.lstrip().startswith(b"{"):
        return None
    try:
        found = json.loads(line.data, parse_constant=_refuse, parse_float=_finite)
    except NotJson:
        if _BEGINS.match(line.data):
            raise
        return None
    except (ValueError, RecursionError):
        return None
    if len(found) != 1:
        return None
    [(kind, value)] = found.items()
    if kind not in KINDS or (kind == "progress" and not _is_progress(value)):
        return None
    return Message(kind, value)


def too_long(line: Line) -> str | None:
    """The kind of the message that a cut line began with; None where it was plain output."""
    found = _BEGINS.match(line.data) if line.cut and not line.is_error else None
    return found[1].decode() if found else None


def shown(line: Line) -> str:
    """The line as the log shows it."""
    # A character has at most four bytes.
    text = line.data[: 4 * SHOWN_CHARS].decode(errors="replace")
    cut = line.cut or len(text) > SHOWN_CHARS or len(line.data) > 4 * SHOWN_CHARS
    return _printable(text[:SHOWN_CHARS]) + ("…" if cut else "")


def _printable(text: str) -> str:
    """Without what would move a terminal's cursor, or pass for another line."""
    return "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _refuse(constant: str) -> None:
    raise NotJson(constant)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise NotJson(text)
    return number


def _is_progress(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == {"done", "total"} and all(map(_is_amount, value.values()))


def _is_amount(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
