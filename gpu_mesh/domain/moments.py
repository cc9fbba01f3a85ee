"""Times as people write and read them: `20:00`, `2h`, `2026-11-30 09:00`; Mon 09:00."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, tzinfo

from gpu_mesh.domain.windows import moment
from gpu_mesh.errors import InvalidValue

__all__ = ["UNITS_S", "parse_until", "shown", "span_s"]

#: How far ahead an end may be, days: what lasts longer has none.
LONGEST_DAYS = 366
#: Units of a span, s.
UNITS_S = {"d": 86_400, "h": 3600, "m": 60, "min": 60, "s": 1}
_SPAN = re.compile(r"(?:[0-9]{1,9}(?:d|h|min|m|s))+")
_PART = re.compile(r"([0-9]+)(d|h|min|m|s)")
_CLOCK = re.compile(r"(?:([0-9]{4}-[0-9]{2}-[0-9]{2})[ t])?([0-9]{1,2}):([0-9]{2})")
_ALLOWED = "a time to come: 20:00 (its next one), 2026-11-30 09:00, or a span such as 90m, 2h or 1d"


def parse_until(text: str, now: float, zone: tzinfo, field: str = "--until") -> float:
    """The moment that is meant, s since the epoch; `now` in the same, clock times in `zone`.

    Raises InvalidValue naming `field` for what is no time, is over, or more than a year ahead.
    """
    given = text.strip().lower()
    until: float | None = None
    if (span := span_s(given)) is not None:
        until = now + span
    elif (match := _CLOCK.fullmatch(given)) and int(match[2]) < 24 and int(match[3]) < 60:
        until = _clock_time(match[1], int(match[2]) * 60 + int(match[3]), now, zone)
    if until is None:
        raise InvalidValue(field, text, _ALLOWED)
    if until <= now:
        raise InvalidValue(field, text, f"is over; {_ALLOWED}")
    if until > now + LONGEST_DAYS * 86_400:
        raise InvalidValue(field, text, "more than a year ahead; leave it out for no end")
    return until


def span_s(text: str) -> int | None:
    """`90m`, `2h`, `1h30m`, `1d` in s; None for what is no span."""
    given = text.strip().lower()
    if not _SPAN.fullmatch(given):
        return None
    return sum(int(count) * UNITS_S[unit] for count, unit in _PART.findall(given))


def _clock_time(day: str | None, minutes: int, now: float, zone: tzinfo) -> float | None:
    """Of a day, or where none is named the next one to come."""
    if day is not None:
        try:
            return moment(datetime.fromisoformat(day).date(), minutes, zone)
        except (ValueError, OverflowError):
            return None
    today = datetime.fromtimestamp(now, zone).date()
    until = moment(today, minutes, zone)
    return until if until > now else moment(today + timedelta(days=1), minutes, zone)


def shown(stamp: float, now: float, zone: tzinfo) -> str:
    """`18:00` for today, `Mon 09:00` for a day less than a week away, else with the date."""
    at, today = datetime.fromtimestamp(stamp, zone), datetime.fromtimestamp(now, zone)
    away = abs((at.date() - today.date()).days)
    if away == 0:
        return f"{at:%H:%M}"
    return f"{at:%a %H:%M}" if away < 7 else f"{at:%Y-%m-%d %H:%M}"
