"""Peak hours as written in the settings (SPEC R2)."""

from __future__ import annotations

from datetime import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_mesh.domain.windows import PeakHours

quick = settings(deadline=None, max_examples=30)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("09:00-18:00", time(9), time(18)),
        ("9:00-18:00", time(9), time(18)),
        (" 09:00-18:00 ", time(9), time(18)),
        ("00:00-23:59", time(0), time(23, 59)),
        ("12:00-12:01", time(12), time(12, 1)),
    ],
)
def test_hours_that_are_right(text: str, start: time, end: time):
    """R2: the first hour is peak, the last is the first moment after."""
    assert PeakHours.parse(text) == PeakHours(start, end)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("25:00-26:00", "00:00 to 23:59"),
        ("09:60-18:00", "00:00 to 23:59"),
        ("09:00-24:00", "00:00 to 23:59"),
        ("18:00-09:00", "start must come before the end"),
        ("09:00-09:00", "start must come before the end"),
        ("", "HH:MM-HH:MM"),
        ("9-18", "HH:MM-HH:MM"),
        ("09:00", "HH:MM-HH:MM"),
        ("09:00–18:00", "HH:MM-HH:MM"),
        ("-1:00-18:00", "HH:MM-HH:MM"),
        ("09:00-18:00-20:00", "HH:MM-HH:MM"),
        ("09:00-18:00\n09:00", "HH:MM-HH:MM"),
    ],
)
def test_hours_that_are_wrong(text: str, hint: str):
    """R2: says what is allowed, with an example."""
    with pytest.raises(ValueError, match=hint) as caught:
        PeakHours.parse(text)
    assert "09:00-18:00" in str(caught.value)


MINUTES = st.builds(time, st.integers(0, 23), st.integers(0, 59))


@quick
@given(st.lists(MINUTES, min_size=2, max_size=2, unique=True).map(sorted))
def test_what_is_written_is_read_back(hours: list[time]):
    """R2: any two minutes of a day, in order."""
    peak = PeakHours(*hours)
    assert PeakHours.parse(str(peak)) == peak


@quick
@given(st.text("0123456789:- a٣²", max_size=12))
def test_any_text_is_read_or_refused(text: str):
    """R2: never another error."""
    try:
        peak = PeakHours.parse(text)
    except ValueError:
        return
    assert peak.start < peak.end
