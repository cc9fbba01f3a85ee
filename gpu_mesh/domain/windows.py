"""Peak and off-peak hours (SPEC R2)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import time

__all__ = ["PeakHours"]

_HOURS = re.compile(r"(\d{1,2}):(\d{2})-(\d{1,2}):(\d{2})")


@dataclass(frozen=True, slots=True)
class PeakHours:
    """Local hours of a day in which ai-batch is paused; `end` is the first moment after."""

    start: time
    end: time

    @classmethod
    def parse(cls, text: str) -> PeakHours:
        """Read `09:00-18:00`. Raises ValueError saying what is allowed."""
        match = _HOURS.fullmatch(text.strip())
        if match is None:
            raise ValueError("hours as HH:MM-HH:MM, for instance 09:00-18:00")
        hours = [int(part) for part in match.groups()]
        try:
            start, end = time(hours[0], hours[1]), time(hours[2], hours[3])
        except ValueError:
            raise ValueError("hours from 00:00 to 23:59, for instance 09:00-18:00") from None
        if start >= end:
            raise ValueError("the start must come before the end, for instance 09:00-18:00")
        return cls(start, end)

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M}"
