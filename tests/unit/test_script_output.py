"""What is read of a script's output, and how much of it is shown (SPEC T)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_mesh.services.scripts.output import (
    BURST_LINES,
    KINDS,
    LINES_PER_S,
    SHOWN_CHARS,
    TAIL_BYTES,
    Line,
    LogPace,
    Message,
    Splitter,
    Tail,
    parse,
    shown,
    too_long,
)

LIMIT = 10


@given(st.lists(st.binary(max_size=30)))
def test_lines_do_not_depend_on_how_they_arrive(chunks: list[bytes]):
    """T: whole lines up to the limit, cut ones marked, empty ones left out; never more than the limit is held."""
    splitter = Splitter(LIMIT)
    found = [line for chunk in chunks for line in splitter.feed(chunk)] + list(splitter.end())
    whole = [line for part in b"".join(chunks).split(b"\n") for line in part.split(b"\r")]
    assert found == [Line(line[:LIMIT], len(line) > LIMIT) for line in whole if line]


@given(st.lists(st.binary(max_size=3 * TAIL_BYTES), max_size=5))
def test_the_tail(chunks: list[bytes]):
    """T: bounded, however it arrives; printable."""
    tail, once = Tail(), Tail()
    for chunk in chunks:
        tail.feed(chunk)
    once.feed(b"".join(chunks))
    assert str(tail) == str(once)
    assert len(str(tail)) <= TAIL_BYTES
    assert all(c.isprintable() or c in "\t\n" for c in str(tail))


@given(
    st.sampled_from(["result", "checkpoint"]),
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5),
)
def test_messages(kind: str, value: object):
    """T: any JSON under the name."""
    assert parse(Line(json.dumps({kind: value}).encode())) == Message(kind, value)
    assert parse(Line(json.dumps({kind: value}, ensure_ascii=False, indent=None).encode(errors="replace"))) is not None


@given(st.binary())
def test_anything_else_is_plain(data: bytes):
    """T: never an error, whatever bytes there are."""
    found = parse(Line(b"{" + data))
    assert found is None or found.kind in KINDS


@pytest.mark.parametrize("amount", [True, "3", None, -1, [1], 1e400])
def test_progress_is_two_amounts(amount: object):
    """T: finite, not negative numbers."""
    assert parse(Line(b'{"progress": {"done": 0.5, "total": 1}}')) == Message("progress", {"done": 0.5, "total": 1})
    assert parse(Line(json.dumps({"progress": {"done": amount, "total": 2}}).encode())) is None


def test_neither_cut_nor_of_standard_error():
    """T: such a line is no message; a cut one tells what it would have been."""
    data = b'{"result": 1}'
    assert parse(Line(data, cut=True)) is None
    assert parse(Line(data, is_error=True)) is None
    assert too_long(Line(b' { "checkpoint" : [1', cut=True)) == "checkpoint"
    assert too_long(Line(b'{"result": 1')) is None
    assert too_long(Line(b'{"progress": 1', cut=True)) is None


def test_pace():
    """T: a burst, then so many a second; the others are counted once."""
    now = 100.0
    pace = LogPace(clock=lambda: now)
    assert sum(pace.allows() for _ in range(int(BURST_LINES) + 7)) == BURST_LINES
    assert (pace.dropped(), pace.dropped()) == (7, 0)
    now += 1.0
    assert sum(pace.allows() for _ in range(200)) == LINES_PER_S


def test_shown():
    """T: bounded, and no line that passes for another one, nor moves a terminal's cursor."""
    assert shown(Line("grün\tok".encode())) == "grün\tok"
    assert shown(Line(b"a\x1b[2Jb\x00\xff")) == "a\ufffd[2Jb\ufffd\ufffd"
    assert shown(Line("é".encode() * 10_000)) == "é" * SHOWN_CHARS + "…"
    assert shown(Line(b"abc", cut=True)) == "abc…"
