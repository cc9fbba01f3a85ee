"""Peak hours: how they are written, and what they are on every day of the year (SPEC R2; domain/windows.py)."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpu_mesh.domain.windows import DAYS, PeakHours, Period, Phase, Span, moment

quick = settings(deadline=None, max_examples=60)
EVERY_DAY = (Span(540, 1080),)
OFFICE = (Span(540, 720), Span(780, 1080))


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("09:00-18:00", [EVERY_DAY] * 7),
        (" 9:00-18:00 ", [EVERY_DAY] * 7),
        ("none", [()] * 7),
        ("None", [()] * 7),
        ("00:00-24:00", [(Span(0, 1440),)] * 7),
        ("22:00-06:00", [(Span(1320, 1800),)] * 7),
        ("mon-fri 09:00-12:00,13:00-18:00", [OFFICE] * 5 + [(), ()]),
        ("Mon-Fri 09:00-12:00, 13:00-18:00; sat 09:00-18:00", [OFFICE] * 5 + [EVERY_DAY, ()]),
        ("mon,wed 09:00-18:00", [EVERY_DAY, (), EVERY_DAY, (), (), (), ()]),
        ("sat-mon 09:00-18:00", [EVERY_DAY, (), (), (), (), EVERY_DAY, EVERY_DAY]),
        ("09:00-12:00,12:00-18:00", [EVERY_DAY] * 7),
        ("mon 09:00-18:00; mon 10:00-11:00", [EVERY_DAY, *[()] * 6]),
    ],
)
def test_hours_that_are_right(text: str, days: list[tuple[Span, ...]]):
    """R2: each day, some days, several a day, over midnight, none; what overlaps is one."""
    assert PeakHours.parse(text) == PeakHours(tuple(days))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("25:00-26:00", "00:00 to 23:59"),
        ("09:60-18:00", "00:00 to 23:59"),
        ("09:00-24:01", "00:00 to 23:59"),
        ("24:00-06:00", "00:00 to 23:59"),
        ("09:00-09:00", "a start that is not the end"),
        ("", "HH:MM-HH:MM"),
        ("9-18", "HH:MM-HH:MM"),
        ("09:00", "HH:MM-HH:MM"),
        ("09:00–18:00", "HH:MM-HH:MM"),
        ("-1:00-18:00", "HH:MM-HH:MM"),
        ("09:00-18:00-20:00", "HH:MM-HH:MM"),
        ("09:00-18:00\n09:00", "HH:MM-HH:MM"),
        ("09:00-18:00;", "HH:MM-HH:MM"),
        ("mon", "HH:MM-HH:MM"),
        ("mon09:00-18:00", "HH:MM-HH:MM"),
        ("monday 09:00-18:00", "days as mon"),
        ("mon- 09:00-18:00", "days as mon"),
        ("mon-wed-fri 09:00-18:00", "days as mon"),
        ("none; mon 09:00-18:00", "HH:MM-HH:MM"),
        ("٠٩:00-18:00", "HH:MM-HH:MM"),
    ],
)
def test_hours_that_are_wrong(text: str, hint: str):
    """R2: says what is allowed, with an example."""
    with pytest.raises(ValueError, match=hint) as caught:
        PeakHours.parse(text)
    assert "for instance 09:00-18:00" in str(caught.value)


CLOCK = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59))
HOURS = st.tuples(CLOCK, CLOCK | st.just("24:00")).filter(lambda pair: pair[0] != pair[1]).map("-".join)
NAMED = st.lists(st.sampled_from(DAYS), min_size=1, max_size=4).map(",".join)
RULE = st.tuples(st.just("") | NAMED, st.lists(HOURS, min_size=1, max_size=3).map(",".join)).map(" ".join)
TEXT = st.lists(RULE, min_size=1, max_size=3).map(";".join)


@quick
@given(TEXT)
@example("00:00-24:00,12:00-06:00")
@example("10:00-24:00,20:00-11:00")
def test_what_is_written_is_read_back(text: str):
    """R2: the settings keep the text; other nodes read it."""
    peak = PeakHours.parse(text)
    assert PeakHours.parse(str(peak)) == peak


@quick
@given(st.text("0123456789:-,; amonfrit٣²", max_size=16))
def test_any_text_is_read_or_refused(text: str):
    """R2: never another error."""
    try:
        peak = PeakHours.parse(text)
    except ValueError:
        return
    assert PeakHours.parse(str(peak)) == peak


ZONES = [
    ZoneInfo(name) for name in ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC")
]
YEAR = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
#: Around the changes of 2026: Berlin, New York, Lord Howe (30 min), spring and autumn each.
CHANGES = [datetime(2026, *day, tzinfo=UTC) for day in [(3, 29), (10, 25), (3, 8), (11, 1), (4, 4), (10, 3)]]
NEAR = st.builds(
    lambda day, minutes: day.timestamp() + minutes * 60, st.sampled_from(CHANGES), st.integers(-2000, 3000)
)
NOW = NEAR | st.integers(YEAR, YEAR + 366 * 86_400).map(float)


def _by_the_wall(peak: PeakHours, zone: ZoneInfo, now: float) -> bool:
    """Whether a clock on the wall shows a time within peak hours: another reading of the rule, minute by minute."""
    shown = datetime.fromtimestamp(now, zone)
    minutes = shown.hour * 60 + shown.minute
    today, before = peak.days[shown.weekday()], peak.days[shown.weekday() - 1]
    return any(span.start <= minutes < span.end for span in today) or any(minutes + 1440 < span.end for span in before)


def _is_usual(zone: ZoneInfo, now: float) -> bool:
    """Whether no clock changes within the days around."""
    offsets = {datetime.fromtimestamp(now + day * 86_400, zone).utcoffset() for day in (-3, 3)}
    return len(offsets) == 1


@quick
@given(TEXT, st.sampled_from(ZONES), NOW)
def test_the_phase_is_what_the_wall_says(text: str, zone: ZoneInfo, now: float):
    """R2: on usual days exactly; where clocks change, what the wall calls peak is peak."""
    peak = PeakHours.parse(text)
    phase = peak.phase(zone, now)
    if _is_usual(zone, now):
        assert phase.is_peak == _by_the_wall(peak, zone, now)
    elif _by_the_wall(peak, zone, now):
        assert phase.is_peak


@quick
@given(TEXT, st.sampled_from(ZONES), NOW)
def test_a_phase_holds_until_it_says_and_not_longer(text: str, zone: ZoneInfo, now: float):
    """R2: nobody has to look in between, and the next phase is the other one."""
    peak = PeakHours.parse(text)
    phase = peak.phase(zone, now)
    if phase.until is None:
        assert all(peak.phase(zone, now + hour * 3600).is_peak == phase.is_peak for hour in range(0, 24 * 8, 5))
        return
    assert phase.until > now
    assert peak.phase(zone, (now + phase.until) / 2) == phase
    assert peak.phase(zone, phase.until - 1).is_peak == phase.is_peak or phase.until - 1 < now
    assert peak.phase(zone, phase.until).is_peak != phase.is_peak


@quick
@given(TEXT, st.sampled_from(ZONES), NOW, st.floats(0, 10 * 86_400))
def test_periods_are_in_order_and_apart(text: str, zone: ZoneInfo, since: float, length: float):
    """R2: what `gpu-mesh windows` shows."""
    found = PeakHours.parse(text).periods(zone, since, since + length)
    assert all(period.start < period.end for period in found)
    assert all(one.end < other.start for one, other in pairwise(found))
    assert all(period.end > since and period.start < since + length for period in found)


def at(zone: str, *when: int, fold: int = 0) -> float:
    return datetime(*when, tzinfo=ZoneInfo(zone), fold=fold).timestamp()


BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"


@pytest.mark.parametrize(
    ("zone", "hours", "day", "start", "end", "length_h"),
    [
        # The day has 23 h: the same clock times, an hour less.
        (BERLIN, "01:00-06:00", (2026, 3, 29), (1, 0), (6, 0), 4),
        (NEW_YORK, "01:00-06:00", (2026, 3, 8), (1, 0), (6, 0), 4),
        # … and 25 h.
        (BERLIN, "01:00-06:00", (2026, 10, 25), (1, 0), (6, 0), 6),
        (NEW_YORK, "01:00-06:00", (2026, 11, 1), (1, 0), (6, 0), 6),
        (BERLIN, "00:00-24:00", (2026, 10, 25), (0, 0), None, None),
        # Clocks skip 02:00-03:00, and what begins or ends in it.
        (BERLIN, "02:30-06:00", (2026, 3, 29), (3, 0), (6, 0), 3),
        (BERLIN, "01:00-02:30", (2026, 3, 29), (1, 0), (3, 0), 1),
        (NEW_YORK, "02:15-05:00", (2026, 3, 8), (3, 0), (5, 0), 2),
        # They show 02:00-03:00 twice (New York 01:00-02:00): from the first to the last.
        (BERLIN, "02:30-06:00", (2026, 10, 25), (2, 30), (6, 0), 4.5),
        (BERLIN, "01:00-02:30", (2026, 10, 25), (1, 0), (2, 30, "last"), 2.5),
        (BERLIN, "02:10-02:20", (2026, 10, 25), (2, 10), (2, 20, "last"), 70 / 60),
        (NEW_YORK, "01:30-05:00", (2026, 11, 1), (1, 30), (5, 0), 4.5),
        # 02:00-02:30 is skipped there, 01:30-02:00 occurs twice.
        (LORD_HOWE, "02:15-05:00", (2026, 10, 4), (2, 30), (5, 0), 2.5),
        (LORD_HOWE, "01:00-06:00", (2026, 10, 4), (1, 0), (6, 0), 4.5),
        (LORD_HOWE, "01:00-01:45", (2026, 4, 5), (1, 0), (1, 45, "last"), 1.25),
        (LORD_HOWE, "01:00-06:00", (2026, 4, 5), (1, 0), (6, 0), 5.5),
    ],
)
def test_days_on_which_clocks_change(zone, hours, day, start, end, length_h):
    """R2: 23 h, 25 h, times that do not exist or occur twice, shifts of 30 min."""
    peak = PeakHours.parse(hours)
    noon = at(zone, *day, 0, 0)
    if end is None:
        assert peak.phase(ZoneInfo(zone), noon) == Phase(True, None)
        return
    begin = at(zone, *day, *start)
    stop = at(zone, *day, *end[:2], fold=int(len(end) == 3))
    assert peak.periods(ZoneInfo(zone), noon, noon + 43_200) == [Period(begin, stop)]
    assert (stop - begin) / 3600 == pytest.approx(length_h)


def test_hours_that_a_day_skips_are_none():
    """R2: 02:10-02:50 is not on the clock in that night; the next is a day later."""
    zone, night = ZoneInfo(BERLIN), at(BERLIN, 2026, 3, 29, 0, 0)
    peak = PeakHours.parse("02:10-02:50")
    assert peak.periods(zone, night, night + 43_200) == []
    assert peak.phase(zone, night) == Phase(False, at(BERLIN, 2026, 3, 30, 2, 10))


def test_over_midnight_belongs_to_the_day_it_begins_on():
    """R2: Friday night goes on on Saturday, and there is no Saturday night."""
    zone, peak = ZoneInfo(BERLIN), PeakHours.parse("fri 22:00-06:00")
    end = at(BERLIN, 2026, 11, 28, 6, 0)
    assert peak.phase(zone, at(BERLIN, 2026, 11, 28, 5, 59)) == Phase(True, end)
    assert peak.phase(zone, end) == Phase(False, at(BERLIN, 2026, 12, 4, 22, 0))


def test_the_whole_day_has_no_end():
    """R2: and an empty plan no beginning."""
    assert PeakHours.parse("00:00-24:00").phase(ZoneInfo(BERLIN), YEAR) == Phase(True, None)
    assert PeakHours.parse("none").phase(ZoneInfo(BERLIN), YEAR) == Phase(False, None)


@quick
@given(st.sampled_from(ZONES), NOW)
def test_a_moment_is_the_one_the_clock_shows(zone: ZoneInfo, now: float):
    """R2: of the two a clock shows twice, the first and the last are its own."""
    shown = datetime.fromtimestamp(int(now) // 60 * 60, zone)
    minutes = shown.hour * 60 + shown.minute
    both = {moment(shown.date(), minutes, zone, last=last) for last in (False, True)}
    assert shown.timestamp() in both
    assert moment(shown.date() - timedelta(days=1), minutes + 1440, zone) in both


def test_a_skipped_moment_is_the_change():
    """R2: whatever is asked for within it."""
    change = datetime(2026, 3, 29, 1, tzinfo=UTC).timestamp()
    for minutes in (120, 150, 179):
        assert moment(date(2026, 3, 29), minutes, ZoneInfo(BERLIN)) == change
        assert moment(date(2026, 3, 29), minutes, ZoneInfo(BERLIN), last=True) == change
