"""A line of the log: what is in it, what is not, and how it is read again (SPEC H8)."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_mesh.domain.loglines import Wanted, as_line, as_text, parse


def record(text: Any = "hello", *args: Any, exc_info: Any = None, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("shop", logging.WARNING, "", 0, text, args, exc_info)
    made.created = 1_795_295_151.1234
    made.__dict__.update(extra)
    return made


def written(made: logging.LogRecord, **given: Any) -> dict[str, Any]:
    line = as_line(made, {"node": "n", "process": "gpu0@n", **given}, UTC)
    assert "\n" not in line
    found = parse(line)
    assert found is not None
    return found


def test_what_a_line_holds():
    found = written(record("hello %s", "there", action="greet", count=3), task="id-1")
    assert list(found) == [
        *("time", "level", "node", "process", "pid", "logger", "message"),
        *("task", "action", "count"),
    ]
    assert found["time"] == "2026-11-21T21:05:51.123+00:00"
    assert (found["level"], found["logger"], found["message"]) == ("WARNING", "shop", "hello there")
    assert (found["node"], found["process"], found["task"], found["action"]) == ("n", "gpu0@n", "id-1", "greet")


def test_celerys_records_of_a_task_name_it():
    """Without its arguments, which Celery hands over too."""
    found = written(record(data={"id": "id-2", "name": "shop.answer", "args": ["s3cret"]}))
    assert (found["task"], found["task_name"]) == ("id-2", "shop.answer")
    assert "s3cret" not in str(found)


def test_an_exception_is_told_whole_and_without_passwords():
    """Hidden word by word: the lines between two addresses stay."""
    try:
        raise ValueError("cannot reach redis://:s3cret@h/0")
    except ValueError:
        found = written(record("see http://u:s3cret@h/x and @you", exc_info=sys.exc_info(), url="redis://:s3cret@h"))
    assert "s3cret" not in str(found)
    assert found["message"].endswith("and @you")
    assert found["exception"].splitlines()[0] == "Traceback (most recent call last):"
    assert found["exception"].splitlines()[-1] == "ValueError: cannot reach redis://:***@h/0"


@pytest.mark.parametrize(
    "made",
    [
        record("%d apples", "no number"),
        record("%s and %s", "one"),
        record({"a": 1}),
        record("\ud800 \x00 \n two lines"),
        record("x" * 1_000_000),
        record("x", thing=object(), deep={"a": [object()]}),
        record("x", exc_info=(ValueError, ValueError("no traceback"), "no traceback either")),
    ],
)
def test_whatever_is_logged_is_a_line(made: logging.LogRecord):
    line = as_line(made, {})
    assert len(line) < 100_000
    assert parse(line.encode("utf-8", "backslashreplace").decode()) is not None


@hypothesis.settings(max_examples=40)
@given(st.text())
def test_reading_breaks_at_nothing(text: str):
    parse(text)
    torn = '{"time":"2026", "mess' + as_line(record(text), {})
    found = parse(torn)
    assert found is not None
    assert found["logger"] == "shop"


def test_as_people_read_it():
    found = written(record(action="greet"))
    assert as_text(found) == "2026-11-21 21:05:51.123 WARNING gpu0@n       shop: hello  [action=greet]"
    assert as_text({**found, "exception": "Traceback\n  boom"}).splitlines()[1:] == ["Traceback", "  boom"]
    assert as_text(json.loads("{}"))


@pytest.mark.parametrize(
    ("wanted", "takes"),
    [
        (Wanted(), True),
        (Wanted(level="WARNING"), True),
        (Wanted(level="ERROR"), False),
        (Wanted(node="n"), True),
        (Wanted(node="m"), False),
        (Wanted(process="gpu0"), True),
        (Wanted(process="gpu0@n"), True),
        (Wanted(process="gpu"), False),
        (Wanted(task="id"), True),
        (Wanted(task="other"), False),
        (Wanted(since=1_795_295_151.0), True),
        (Wanted(since=1_795_295_152.0), False),
    ],
)
def test_which_lines_are_wanted(wanted: Wanted, takes: bool):
    assert wanted.takes(written(record(), task="id-1")) is takes
