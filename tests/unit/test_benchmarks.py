"""The benchmarks' own arithmetic: rows, goals, the ledger, the fewest swaps (issue 3, Benchmarks)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import redis

# They are no part of the installed package.
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import ledger, rows, wire
from benchmarks.affinity import fewest_swaps
from benchmarks.table import BEGIN, END, put_between


def test_a_row_has_a_ratio_only_where_stock_can():
    assert rows.row(3.0, "s", 2.0) == {"value": 3.0, "unit": "s", "baseline": 2.0, "ratio": 1.5}
    assert rows.row(3.0, "s") == {"value": 3.0, "unit": "s", "baseline": None, "ratio": None}


@pytest.mark.parametrize(
    ("name", "value", "baseline", "must", "aim"),
    [
        ("failover_child_s", 0.4, 2.0, True, True),
        ("failover_child_s", 2.0, None, True, False),
        ("failover_child_s", 2.1, None, False, False),
        ("noop_throughput", 130.0, 100.0, True, True),
        ("noop_throughput", 99.0, 100.0, False, False),
        ("noop_throughput", 99.0, None, None, None),
        ("model_swaps", 6.0, 20.0, True, None),
        ("storm_lost", 1.0, None, False, False),
    ],
)
def test_goals(name: str, value: float, baseline: float | None, must: bool | None, aim: bool | None):
    found = {name: rows.row(value, "", baseline)}
    goal = rows.GOALS[name]
    assert (goal.must.held(name, found), goal.aim.held(name, found)) == (must, aim)


def test_a_goal_that_is_another_row():
    found = {"storm_kills": rows.row(50, ""), "storm_duplicates": rows.row(51, "")}
    assert rows.GOALS["storm_duplicates"].must.held("storm_duplicates", found) is False
    found["storm_duplicates"] = rows.row(50, "")
    assert rows.GOALS["storm_duplicates"].must.held("storm_duplicates", found) is True


def test_both_tables_show_every_row_and_what_was_missed():
    found = {"storm_lost": rows.row(2, "tasks"), "storm_s": rows.row(1.234, "s")}
    assert [line.split()[0] for line in rows.text(found).splitlines()] == ["name", "storm_lost", "storm_s"]
    assert "| storm_lost | 2 | tasks | - | - | ≤ 0 | NO | ≤ 0 | NO |" in rows.markdown(found)
    assert "1.23" in rows.text(found)


def test_figures_go_between_the_marks():
    document = f"a\n{BEGIN}\nold\n{END}\nb\n"
    assert put_between(document, "new") == f"a\n{BEGIN}\nnew\n{END}\nb\n"
    with pytest.raises(ValueError, match="lacks the lines"):
        put_between("a", "new")


def test_the_ledger_decides_what_was_lost_and_what_ran_twice(tmp_path: Path):
    book = ledger.Ledger(tmp_path / "ledger")
    for what, task in [("start", "a"), ("end", "a"), ("start", "b"), ("start", "b"), ("end", "b"), ("end", "b")]:
        ledger.append(str(book.path), what, task, "gpu0@n1")
    assert len(book.starts("b")) == 2
    assert book.starts("a")[0].worker == "gpu0@n1"
    ends = book.ends()
    assert ends == {"a": 1, "b": 2}
    assert ledger.lost(["a", "b", "c"], ends) == 1
    assert ledger.duplicates(ends) == 1


def test_a_ledger_is_read_while_it_is_written(tmp_path: Path):
    """A line that is not complete yet is read later, none twice."""
    book = ledger.Ledger(tmp_path / "ledger")
    book.path.write_text("start a 1 w 1.0\nend a 1")
    assert [run.what for run in book.runs()] == ["start"]
    book.path.write_text("start a 1 w 1.0\nend a 1 w 2.0\n")
    assert [run.what for run in book.runs()] == ["start", "end"]
    assert [run.at for run in book.runs()] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("come", "bound_s", "swaps"),
    [
        # All at once, no bound that matters: one model, then the other.
        ([0.0] * 8, 100.0, 1),
        # Always the oldest.
        ([0.0] * 8, 0.0, 7),
        # The bound ends after the first two: b b, then always the oldest, a a a b a b.
        ([0.0] * 8, 2.0, 4),
        # Each comes when the one before has ended.
        ([float(i) for i in range(4)], 100.0, 3),
        ([0.0], 1.0, 0),
    ],
)
def test_fewest_swaps(come: list[float], bound_s: float, swaps: int):
    assert fewest_swaps(come, 1.0, bound_s) == swaps


def test_wire_commands_and_replies():
    recorder = wire.Recorder(1)
    recorder.hset("k", "f", 1)
    assert recorder.kept == 1
    assert recorder.take() == b"*4\r\n$4\r\nHSET\r\n$1\r\nk\r\n$1\r\nf\r\n$1\r\n1\r\n"
    assert recorder.take() == b""

    raw = b"$3\r\nabc\r\n+OK\r\n:7\r\n$-1\r\n*2\r\n$2\r\na\n\r\n*-1\r\n-ERR no\r\n"
    found, buffer = [], bytearray()
    for byte in raw:
        buffer.append(byte)
        # As they come from a socket, in pieces.
        found += wire.replies(buffer)
    assert found[:5] == [b"abc", b"OK", 7, None, [b"a\n", None]]
    assert isinstance(found[5], redis.exceptions.ResponseError)
    assert not buffer
