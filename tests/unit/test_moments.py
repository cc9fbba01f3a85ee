"""`--until` as people write it, and times as they read them (issue 5 §1; domain/moments.py)."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_mesh.domain.moments import parse_until, shown
from gpu_mesh.errors import InvalidValue

ZONE = ZoneInfo("Europe/Berlin")
#: A Saturday.
NOW = datetime(2026, 11, 21, 16, 30, tzinfo=ZONE).timestamp()


def at(*when: int) -> float:
    return datetime(*when, tzinfo=ZONE).timestamp()


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("20:00", at(2026, 11, 21, 20)),
        ("8:05", at(2026, 11, 22, 8, 5)),
        ("16:30", at(2026, 11, 22, 16, 30)),
        ("2026-11-30 09:00", at(2026, 11, 30, 9)),
        ("2026-11-30T09:00", at(2026, 11, 30, 9)),
        ("30s", NOW + 30),
        ("90m", NOW + 5400),
        ("90min", NOW + 5400),
        ("1h30m", NOW + 5400),
        (" 2H ", NOW + 7200),
        ("1d", NOW + 86_400),
    ],
)
def test_times_to_come(text: str, until: float):
    """A clock time is its next one, in the zone that is given."""
    assert parse_until(text, NOW, ZONE) == until


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2026-11-21 16:29", "is over"),
        ("2020-01-01 10:00", "is over"),
        ("0s", "is over"),
        ("367d", "more than a year"),
        ("2028-01-01 00:00", "more than a year"),
        ("999999999d", "more than a year"),
        *((text, "a time to come: 20:00") for text in ("", "soon", "25:00", "20:60", "20", "-2h", "2", "2x", "h")),
        *((text, "a time to come: 20:00") for text in ("2026-13-01 10:00", "2026-11-31 10:00", "1.5h", "20:00:00")),
    ],
)
def test_nonsense_is_refused(text: str, says: str):
    """Names the option, the value and what is allowed."""
    with pytest.raises(InvalidValue, match=says) as caught:
        parse_until(text, NOW, ZONE)
    assert (caught.value.field, caught.value.value) == ("--until", text)


def test_a_time_that_is_skipped_is_the_change():
    """02:30 on the night clocks go forward."""
    night = datetime(2026, 3, 28, 22, tzinfo=ZONE).timestamp()
    assert parse_until("02:30", night, ZONE) == datetime(2026, 3, 29, 3, tzinfo=ZONE).timestamp()


@settings(deadline=None, max_examples=60)
@given(st.text("0123456789:dhms- tx", max_size=18))
def test_any_text_is_a_time_to_come_or_refused(text: str):
    """Never another error."""
    try:
        until = parse_until(text, NOW, ZONE)
    except InvalidValue:
        return
    assert NOW < until <= NOW + 366 * 86_400


@pytest.mark.parametrize(
    ("stamp", "text"),
    [
        (at(2026, 11, 21, 18), "18:00"),
        (at(2026, 11, 22, 9), "Sun 09:00"),
        (at(2026, 11, 20, 9), "Fri 09:00"),
        (at(2026, 11, 28, 9), "2026-11-28 09:00"),
        (at(2026, 11, 1, 9), "2026-11-01 09:00"),
    ],
)
def test_times_are_short(stamp: float, text: str):
    """Today's as a clock shows them."""
    assert shown(stamp, NOW, ZONE) == text
