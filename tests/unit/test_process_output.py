"""Children's output as lines: whole, in order, bounded, and never holding a child up for ever (SPEC H8)."""

from __future__ import annotations

import threading
from io import BytesIO, FileIO
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.output import LONGEST_LINE, LineFeed, split_lines

#: How long anything here may take to happen, s.
DEADLINE_S = 10.0


class Chunks:
    """An unbuffered stream that gives its data in the pieces it was written in."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = [piece for piece in pieces if piece]

    def read(self, size: int) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


def lines(*pieces: bytes) -> list[str]:
    return list(split_lines(cast(FileIO, Chunks(*pieces))))


@given(st.lists(st.binary(max_size=20)))
def test_lines_do_not_depend_on_how_they_were_written(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    expected = [line.removesuffix(b"\r").decode(errors="replace") for line in whole.split(b"\n")]
    assert lines(*pieces) == expected[: None if not whole.endswith(b"\n") and whole else -1]


def test_last_line_needs_no_end_and_undecodable_bytes_are_replaced() -> None:
    assert lines(b"a\r\n\n\xff!") == ["a", "", "\N{REPLACEMENT CHARACTER}!"]


@given(st.integers(min_value=0, max_value=3), st.sampled_from(["a", "é", "€", "😀"]), st.booleans())
def test_long_line_comes_in_pieces_that_cut_no_character(offset: int, char: str, ended: bool) -> None:
    line = "x" * offset + char * (2 * LONGEST_LINE // len(char.encode()) + 5)
    stream = BytesIO(line.encode() + b"\n" * ended)
    pieces = list(split_lines(cast(FileIO, stream)))
    assert "".join(pieces) == line
    assert len(pieces) == 3
    assert max(len(piece.encode()) for piece in pieces) <= LONGEST_LINE


def test_endless_garbage_is_bounded_too() -> None:
    pieces = list(split_lines(cast(FileIO, BytesIO(b"\x80" * (LONGEST_LINE * 2)))))
    assert [len(piece) for piece in pieces] == [LONGEST_LINE, LONGEST_LINE]


class Gate:
    """Takes lines once it is open; says when it was first asked."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.open = threading.Event()
        self.seen: list[tuple[str, str]] = []

    def take(self, name: str, line: str) -> None:
        self.asked.set()
        assert self.open.wait(DEADLINE_S)
        self.seen.append((name, line))


def test_reader_that_stands_still_costs_lines_not_the_child() -> None:
    """A terminal stopped with Ctrl-S must not stop a worker's lease."""
    gate = Gate()
    with LineFeed(gate.take, capacity=2, patience_s=0.01) as feed:
        feed.put("gpu0", "0")
        assert gate.asked.wait(DEADLINE_S)
        for n in range(1, 6):
            feed.put("gpu0", str(n))
        assert not feed.flush(0.0)
        gate.open.set()
        assert feed.flush(DEADLINE_S)
        feed.put("gpu0", "6")
    assert [line for _, line in gate.seen] == ["0", "1", "2", "[3 lines left out: nobody took them]", "6"]


def test_end_of_the_feed_hands_on_what_waits() -> None:
    gate = Gate()
    with LineFeed(gate.take) as feed:
        for n in range(100):
            feed.put("gpu0", str(n))
        gate.open.set()
    assert gate.seen == [("gpu0", str(n)) for n in range(100)]
    feed.put("gpu0", "late")
    assert len(gate.seen) == 100


def test_failing_reader_is_told_once_and_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    def fail(name: str, line: str) -> None:
        seen.append(line)
        raise BrokenPipeError(line)

    with LineFeed(fail) as feed:
        feed.put("gpu0", "a")
        feed.put("gpu0", "b")
    assert seen == ["a", "b"]
    record: Any
    (record,) = caplog.records
    assert (record.action, record.child) == ("show_line", "gpu0")
