"""What a reader of a task's stream has of it, and what comes next: whole, and nothing twice, also where another
process goes on reading.

What the reader was too slow for, or the stream let go, comes from the result: the texts of all pieces since the last
`restart`, put together, are the result's text when the task succeeded.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass

from gpu_mesh.store.streams import START, Entry

__all__ = ["Piece", "Position", "Reading"]

_POSITION = re.compile(r"(\d{1,20}-\d{1,20})((?:\.\d{1,18}){5})", re.ASCII)
#: Redis's, of either half of an entry's id.
_ID_LIMIT = 2**64


@dataclass(frozen=True, slots=True)
class Piece:
    """What a task said since the piece before; `print(piece, end="")` prints its text."""

    text: str = ""
    #: What a thinking model says to itself; no part of the answer.
    thinking: str = ""
    #: The run was lost and another one begins anew: forget all pieces before this one.
    restart: bool = False

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Position:
    """How far a reader is: the last entry it took, that entry's run, and how many bytes of the run's text and thinking
    it has, with their CRC-32: a result must begin with them, or it is of another run."""

    after: str = START
    run: int = 0
    text: int = 0
    text_sum: int = 0
    thinking: int = 0
    thinking_sum: int = 0

    def __str__(self) -> str:
        return ".".join(map(str, astuple(self)))

    @classmethod
    def parse(cls, told: str) -> Position:
        """What `str` made. Raises ValueError."""
        found = _POSITION.fullmatch(told)
        if not found or any(int(part) >= _ID_LIMIT for part in found[1].split("-")):
            raise ValueError(f"{told!r} is no position in a stream")
        return cls(found[1], *map(int, found[2][1:].split(".")))

    @property
    def at(self) -> int:
        """Bytes of the run that the reader has."""
        return self.text + self.thinking


class Reading:
    """Makes pieces of a stream's entries. It holds no text."""

    def __init__(self, position: Position | None = None) -> None:
        self.position = position or Position()
        #: Whether something was missed.
        self.behind = False
        #: The state that the run ended in, by the stream.
        self.ended: str | None = None

    def take(self, entry: Entry) -> Iterator[Piece]:
        """What the entry says that the reader does not have."""
        had = self.position
        if entry.run < had.run:  # a run that was replaced
            self.position = Position(entry.id, *astuple(had)[1:])
            return
        if entry.run > had.run:
            self.position, self.behind, self.ended = Position(entry.id, entry.run), False, None
            if had.at:
                yield Piece(restart=True)
        else:
            self.position = Position(entry.id, *astuple(had)[1:])
        self.behind = self.behind or entry.at > self.position.at
        if entry.end is not None:
            self.ended = entry.end
        elif entry.size and entry.at == self.position.at and not self.behind:
            self._give(entry.text, entry.thinking)
            yield Piece(entry.text, entry.thinking)

    def rest(self, value: object) -> Iterator[Piece]:
        """What the task's result `value` has beyond what was given out."""
        answer = value if isinstance(value, Mapping) and isinstance(value.get("text"), str) else {}
        if not answer:
            return
        had = self.position
        text = _beyond(str(answer["text"]), had.text, had.text_sum)
        thinking = _beyond(str(answer.get("thinking", "")), had.thinking, had.thinking_sum)
        restart = text is None or thinking is None
        if restart:
            text, thinking = str(answer["text"]), str(answer.get("thinking", ""))
            self.position = Position(had.after, had.run)
        if restart or text or thinking:
            self._give(text or "", thinking or "")
            yield Piece(text or "", thinking or "", restart)

    def _give(self, text: str, thinking: str) -> None:
        had, said, thought = self.position, _bytes(text), _bytes(thinking)
        self.position = Position(
            had.after,
            had.run,
            had.text + len(said),
            zlib.crc32(said, had.text_sum),
            had.thinking + len(thought),
            zlib.crc32(thought, had.thinking_sum),
        )


def _beyond(whole: str, size: int, checksum: int) -> str | None:
    """What follows its first `size` bytes; None where these are not those of `checksum`."""
    told = _bytes(whole)
    if len(told) < size or zlib.crc32(told[:size]) != checksum:
        return None
    return told[size:].decode(errors="surrogatepass")


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
