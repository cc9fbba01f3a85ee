"""Peak and off-peak hours: on which days, from when to when, in which time zone (SPEC R2).

A day may have 23 h or 25 h. A time that occurs twice begins peak hours when it comes first and ends them when it comes
last; one that the clocks skip stands for the moment they do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo

__all__ = ["DAYS", "NONE", "PeakHours", "Period", "Phase", "Span", "moment"]

#: What a week without peak hours is written as.
NONE = "none"
#: Days of the week as they are written, in the order of `date.weekday`.
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
#: Minutes of a day.
_DAY = 1440
_DAY_S = 86_400.0
#: The pattern repeats each week: within so many days its next change comes, if it ever does.
_AHEAD_DAYS = 9
_EXAMPLE = "for instance 09:00-18:00 or mon-fri 09:00-12:00,13:00-18:00; sat 10:00-14:00"
_RULE = re.compile(r"(?:([a-z][a-z,\s-]*?)\s+)?([0-9][0-9:,\s-]*)")
_SPAN = re.compile(r"([0-9]{1,2}):([0-9]{2})\s*-\s*([0-9]{1,2}):([0-9]{2})")


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Hours of a day, minutes from its midnight. `end` is the first moment after; beyond 1440 on the next day."""

    start: int
    end: int

    def __str__(self) -> str:
        return f"{_written(self.start)}-{_written(self.end if self.end <= _DAY else self.end - _DAY)}"


@dataclass(frozen=True, slots=True, order=True)
class Period:
    """From `start` until before `end`, s since the epoch."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Phase:
    """Whether it is peak hours, and when that changes, s since the epoch; None: never."""

    is_peak: bool
    until: float | None


@dataclass(frozen=True, slots=True)
class PeakHours:
    """Hours in which ai-batch is paused: the spans that begin on each day of the week, Monday first."""

    days: tuple[tuple[Span, ...], ...]

    @classmethod
    def parse(cls, text: str) -> PeakHours:
        """Read `09:00-18:00` (every day), `mon-fri 09:00-12:00,13:00-18:00; sat 22:00-06:00` or `none`.

        An end that is not after its start is on the next day. Raises ValueError saying what is allowed.
        """
        found: list[list[Span]] = [[] for _ in DAYS]
        if text.strip().lower() != NONE:
            for rule in text.lower().split(";"):
                match = _RULE.fullmatch(rule.strip())
                if match is None:
                    raise ValueError(f"hours as HH:MM-HH:MM, with days before them where they differ, {_EXAMPLE}")
                spans = [_span(part) for part in match[2].split(",")]
                for day in _days(match[1]):
                    found[day] += spans
        return cls(tuple(tuple(_joined(spans)) for spans in found))

    def __str__(self) -> str:
        rules: dict[tuple[Span, ...], list[int]] = {}
        for day, spans in enumerate(self.days):
            if spans:
                rules.setdefault(spans, []).append(day)
        told = []
        for spans, days in rules.items():
            hours = ",".join(map(str, spans))
            told.append(hours if len(days) == len(DAYS) else f"{_written_days(days)} {hours}")
        return "; ".join(told) or NONE

    def periods(self, zone: tzinfo, since: float, until: float) -> list[Period]:
        """Peak hours that overlap the time from `since` until before `until`, whole and in order; none touch."""
        day = datetime.fromtimestamp(since, zone).date() - timedelta(days=2)
        last = datetime.fromtimestamp(until, zone).date() + timedelta(days=1)
        found: list[Period] = []
        while day <= last:
            for span in self.days[day.weekday()]:
                found.append(Period(moment(day, span.start, zone), moment(day, span.end, zone, last=True)))
            day += timedelta(days=1)
        return [period for period in _merged(found) if period.end > since and period.start < until]

    def phase(self, zone: tzinfo, now: float) -> Phase:
        """What holds at `now`, s since the epoch."""
        ahead = now + _AHEAD_DAYS * _DAY_S
        coming = self.periods(zone, now, ahead)
        if not coming:
            return Phase(False, None)
        if coming[0].start > now:
            return Phase(False, coming[0].start)
        return Phase(True, coming[0].end if coming[0].end < ahead else None)


def moment(day: date, minutes: int, zone: tzinfo, *, last: bool = False) -> float:
    """When clocks in `zone` show so many minutes past the midnight of `day`, s since the epoch.

    Of a time that occurs twice, the first or the `last`; for one that is skipped, the moment it is.
    """
    shown = datetime.combine(day, time()) + timedelta(minutes=minutes)
    first, second = (shown.replace(tzinfo=zone, fold=fold).timestamp() for fold in (0, 1))
    if second < first:
        return _change(zone, int(second), int(first))
    return second if last else first


def _change(zone: tzinfo, before: int, after: int) -> float:
    """The second in which the zone's offset became what it is at `after`."""
    offset = datetime.fromtimestamp(after, zone).utcoffset()
    while after - before > 1:
        middle = (before + after) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == offset:
            after = middle
        else:
            before = middle
    return float(after)


def _merged(periods: Iterable[Period]) -> Iterator[Period]:
    held: Period | None = None
    for period in sorted(periods):
        if period.end <= period.start:
            continue  # the clocks skip it
        if held is None:
            held = period
        elif period.start <= held.end:
            held = Period(held.start, max(held.end, period.end))
        else:
            yield held
            held = period
    if held is not None:
        yield held


def _joined(spans: Iterable[Span]) -> Iterator[Span]:
    """Those that overlap or touch as one, unless that would be too long to be written as one."""
    held: Span | None = None
    for span in sorted(spans):
        if held is None:
            held = span
        elif span.end <= held.end:
            continue
        elif span.start <= held.end and span.end - held.start < _DAY:
            held = Span(held.start, span.end)
        else:
            yield held
            held = span
    if held is not None:
        yield held


def _span(text: str) -> Span:
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"hours as HH:MM-HH:MM, {_EXAMPLE}")
    hours = [int(part) for part in match.groups()]
    start, end = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
    if start >= _DAY or end > _DAY or hours[1] > 59 or hours[3] > 59:
        raise ValueError(f"hours from 00:00 to 23:59, or to 24:00, {_EXAMPLE}")
    if start == end:
        raise ValueError(f"a start that is not the end (00:00-24:00 is the whole day), {_EXAMPLE}")
    return Span(start, end if end > start else end + _DAY)


def _days(text: str | None) -> Iterator[int]:
    if text is None:
        yield from range(len(DAYS))
        return
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        if first not in DAYS or (dash and last not in DAYS):
            raise ValueError(f"days as {', '.join(DAYS)} or mon-fri, {_EXAMPLE}")
        start, end = DAYS.index(first), DAYS.index(last or first)
        for step in range((end - start) % len(DAYS) + 1):
            yield (start + step) % len(DAYS)


def _written(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


def _written_days(days: list[int]) -> str:
    """`mon-fri`, `sat,sun`: three or more in a row as one."""
    runs: list[list[int]] = []
    for day in days:
        if runs and runs[-1][-1] == day - 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    parts = [f"{DAYS[run[0]]}-{DAYS[run[-1]]}" if len(run) > 2 else ",".join(DAYS[day] for day in run) for run in runs]
    return ",".join(parts)
