"""A task's stream read on by whoever comes next: whole and nothing twice (issue 7 §1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_mesh.services.reading import Piece, Position, Reading
from gpu_mesh.store.streams import Entry

#: Several bytes to a character, and pieces of the same text.
WORDS = st.text("aé😀", max_size=3)


def entries(said: list[tuple[str, str]], run: int = 1, first: int = 1) -> list[Entry]:
    """A run's: its empty beginning, and what it said."""
    found, at = [Entry(id=f"{first}-0", run=run)], 0
    for index, (text, thinking) in enumerate(said):
        found.append(Entry(id=f"{first + 1 + index}-0", run=run, at=at, text=text, thinking=thinking))
        at += found[-1].size
    return found


def texts(pieces: list[Piece]) -> tuple[str, str]:
    """Text and thinking, as a client puts them together."""
    text = thinking = ""
    for piece in pieces:
        if piece.restart:
            text = thinking = ""
        text, thinking = text + piece.text, thinking + piece.thinking
    return text, thinking


@given(st.lists(st.tuples(WORDS, WORDS), max_size=6), st.lists(st.integers(0, 8), max_size=4), st.integers(0, 8))
def test_whoever_reads_on_has_it_all(said: list[tuple[str, str]], cuts: list[int], kept: int):
    """Wherever readers take over from each other, and whatever of the stream is there by then: the rest is the
    result's."""
    stream = entries(said)
    whole = {"text": "".join(text for text, _ in said), "thinking": "".join(thought for _, thought in said)}
    given_out: list[Piece] = []
    position = None
    for cut in [*sorted(cuts), kept]:
        reading = Reading(position)
        before = [entry for entry in stream[:cut] if position is None or _number(entry.id) > _number(position.after)]
        for entry in before:
            given_out += reading.take(entry)
        position = Position.parse(str(reading.position))
    given_out += Reading(position).rest(whole)
    assert texts(given_out) == (whole["text"], whole["thinking"])
    assert not any(piece.restart for piece in given_out)


def _number(key: str) -> int:
    return int(key.partition("-")[0])


def test_another_run_begins_anew():
    """Also for who read the first one elsewhere."""
    reading = Reading()
    first = [piece for entry in entries([("old", "")]) for piece in reading.take(entry)]
    later = Reading(Position.parse(str(reading.position)))
    second = [piece for entry in entries([("new", "hm")], run=2, first=10) for piece in later.take(entry)]
    assert texts(first) == ("old", "")
    assert second == [Piece(restart=True), Piece("new", "hm")]
    assert list(later.take(entries([("old", "")], run=1)[1])) == []


def test_a_result_of_another_run_begins_anew():
    """The result says otherwise than what was read: all of it again."""
    reading = Reading()
    for entry in entries([("one", "")]):
        list(reading.take(entry))
    later = Reading(Position.parse(str(reading.position)))
    assert list(later.rest({"text": "two and more"})) == [Piece("two and more", restart=True)]


def test_what_the_stream_let_go_comes_from_the_result():
    """Nothing is given out behind a hole."""
    reading = Reading()
    stream = entries([("one ", ""), ("two ", ""), ("three", "")])
    given_out = [piece for entry in (*stream[:2], stream[3]) for piece in reading.take(entry)]
    assert reading.behind
    given_out += reading.rest({"text": "one two three"})
    assert texts(given_out) == ("one two three", "")


@pytest.mark.parametrize(
    "told", ["", "junk", "1-0", "1-0.1.2.3.4", "1-0.1.2.3.4.5.6", "1-0.1.2.3.4.-5", "18446744073709551616-0.1.2.3.4.5"]
)
def test_what_is_no_position(told: str):
    """A client may send anything; Redis must not be asked with it."""
    with pytest.raises(ValueError, match="no position"):
        Position.parse(told)
