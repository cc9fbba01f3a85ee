"""What operators are told (SPEC H5-H7): how grave it is, of what, and what to do; and when it is told: pure rules.

An alert stands from when it is raised until it is cleared. It is told when it is raised and again when its level rises;
its end is told to whoever heard of it. An alert of level INFO is an event: it is told, and over. A silence keeps one
from being told while it holds, and no longer: one that still stands is told with its next post.

Of one rule and level PASSED are told within WINDOW_S, the others at the window's end in one line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import IntEnum
from fnmatch import fnmatchcase
from typing import Any

__all__ = [
    "Alert",
    "Change",
    "Level",
    "Notice",
    "Silence",
    "Standing",
    "Window",
    "cleared",
    "is_known",
    "posted",
    "summaries",
]

#: Longest words that are kept, characters.
TEXT_KEPT, NAME_KEPT = 1000, 200
#: How long a level must have been lower until its rise is told again, s: what goes up and down is told once.
CALM_S = 600.0
#: How long the words of an alert that is posted again and again may be old, s.
FRESH_S = 60.0
#: Of one rule and level so many are told within so long, s.
PASSED, WINDOW_S = 5, 600.0
#: Subjects that a line of the others names, and that are kept for it.
NAMED, HELD = 8, 1000


class Level(IntEnum):
    """How grave it is (SPEC H6); the numbers are those of `logging`."""

    INFO = 20
    WARNING = 30
    ERROR = 40
    CRITICAL = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One thing that an operator should know. One rule and one subject are one alert, however often it is raised."""

    #: What it is about: `device`, `node`, `endpoint`, `disconnected`, `failures`, `backlog`, `memory`, …, see RULES.
    rule: str
    #: Of what: a worker such as `gpu0@node`, a node, a queue, or `mesh`.
    subject: str
    level: Level
    #: What happened, in one line.
    text: str
    #: What to do about it; empty where nothing is to be done.
    remedy: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data, the level by its name."""
        return {**asdict(self), "level": self.level.name}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """An alert that was raised. Times in s since the epoch."""

    rule: str
    subject: str
    level: Level
    text: str
    remedy: str = ""
    #: When it was raised, and posted last.
    since: float = 0.0
    seen_at: float = 0.0
    #: The highest level since.
    top: Level
    #: What counts as told: a level above it is told. 0: nothing yet.
    told: int = 0
    #: The highest level that was told; whoever hears of that level hears of its end.
    heard: int = 0
    #: `heard` before it was last held back, see Window: while it still is, no more than that was told.
    heard_before: int = 0
    #: Since when its level is lower than what was told; 0 where it is not.
    lower_since: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data, the levels by their names; `from_dict` reads it back."""
        return {**asdict(self), "level": self.level.name, "top": self.top.name}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Standing:
        """Read `to_dict`'s data. Raises ValueError, KeyError, TypeError for what is none; newer names are ignored."""
        known = {name: data[name] for name in cls.__slots__ if name in data}
        return cls(**{**known, "level": Level[str(data["level"])], "top": Level[str(data["top"])]})


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """What matches both patterns (`*` for anything) is not told until then; None: until it is taken back."""

    id: str
    rule: str
    subject: str = "*"
    until: float | None = None
    since: float = 0.0
    by: str = ""
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return asdict(self)

    def holds(self, rule: str, subject: str, now: float) -> bool:
        """Whether it keeps this alert from being told."""
        is_over = self.until is not None and self.until <= now
        return not is_over and fnmatchcase(rule, self.rule) and fnmatchcase(subject, self.subject)


@dataclass(frozen=True, slots=True)
class Window:
    """What was told of one rule and level since then, and of whom it was not. `more`: beyond HELD."""

    since: float
    passed: int = 0
    held: tuple[str, ...] = ()
    more: int = 0
    #: The highest level of those held back, of an end that of its alert: who hears of that hears of them.
    reach: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What goes to channels. `kind` is `raised`, `over`, `event`, `more` or `test`."""

    kind: str
    rule: str
    subject: str
    level: Level
    #: Channels whose least level is no higher hear it.
    reach: int
    text: str
    remedy: str = ""
    #: Since when it stands, and when it was told; s since the epoch.
    since: float
    at: float
    id: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data; `from_dict` reads it back."""
        return {**asdict(self), "level": self.level.name}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Notice:
        """Read `to_dict`'s data. Raises ValueError, KeyError, TypeError for what is none; newer names are ignored."""
        known = {name: data[name] for name in cls.__slots__ if name in data}
        return cls(**{**known, "level": Level[str(data["level"])]})


@dataclass(frozen=True, slots=True)
class Change:
    """What a post or a clear does. `standing` is None for what stands no more, `past` what goes into the history."""

    standing: Standing | None = None
    past: Standing | None = None
    #: Windows that changed, by level.
    windows: dict[Level, Window] = field(default_factory=dict)
    notices: tuple[Notice, ...] = ()
    #: Whether the log has not had it yet.
    is_news: bool = False


def is_known(before: Standing, alert: Alert, now: float) -> bool:
    """Whether posting the alert tells nothing and changes nothing that matters: most posts do neither."""
    same = before.level is alert.level and before.told >= alert.level and not before.lower_since
    return same and 0 <= now - before.seen_at < FRESH_S


def posted(
    before: Standing | None, alert: Alert, now: float, windows: Mapping[Level, Window], silences: Iterable[Silence] = ()
) -> Change:
    """The alert is posted at `now`; `windows` are its rule's."""
    silenced = any(silence.holds(alert.rule, alert.subject, now) for silence in silences)
    if alert.level <= Level.INFO:
        event = _standing(alert, now)
        change = Change(past=event, is_news=True)
        return change if silenced else _told(change, "event", event, now, windows)
    found = _standing(alert, now)
    if before is not None:
        told, lower_since = _calmed(before, alert.level, now)
        found = replace(
            found, since=before.since, top=max(before.top, alert.level), told=told, heard=before.heard,
            heard_before=before.heard_before, lower_since=lower_since,
        )  # fmt: skip
    is_news = before is None or before.level is not alert.level
    if silenced or found.level <= found.told:
        return Change(standing=found, is_news=is_news)
    heard = max(found.heard, int(found.level))
    found = replace(found, told=int(found.level), heard=heard, heard_before=found.heard, lower_since=0.0)
    return _told(Change(standing=found, is_news=is_news), "raised", found, now, windows)


def cleared(before: Standing, text: str, now: float, windows: Mapping[Level, Window]) -> Change:
    """What it told of is over at `now`. Who did not hear of it, for it is held back still, hears nothing of it."""
    changed = {}
    for level, window in windows.items():
        if level > Level.INFO and before.subject in window.held and not _is_over(window, now):
            changed[level] = replace(window, held=tuple(name for name in window.held if name != before.subject))
    change = Change(past=before, windows=changed, is_news=True)
    heard = before.heard_before if changed else before.heard
    if not heard:
        return change
    text = f"recovered after {_span(now - before.since)}: {text}"
    over = replace(before, level=Level.INFO, heard=heard, text=text, remedy="")
    return _told(change, "over", over, now, {**windows, **changed})


def summaries(
    rule: str, windows: Mapping[Level, Window], now: float
) -> tuple[dict[Level, Window | None], list[Notice]]:
    """Windows of the rule that are over at `now`, to be forgotten, and the lines that tell of what they held back."""
    ended = {level: window for level, window in windows.items() if _is_over(window, now)}
    told = [_summary(rule, level, window, now) for level, window in ended.items() if window.held or window.more]
    return dict.fromkeys(ended), told


def _standing(alert: Alert, now: float) -> Standing:
    return Standing(
        rule=alert.rule[:NAME_KEPT],
        subject=alert.subject[:NAME_KEPT],
        level=Level(alert.level),
        text=" ".join(alert.text.split())[:TEXT_KEPT],
        remedy=alert.remedy.strip()[:TEXT_KEPT],
        since=now,
        seen_at=now,
        top=Level(alert.level),
    )


def _calmed(before: Standing, level: Level, now: float) -> tuple[int, float]:
    """What counts as told now, and since when the level is lower than that."""
    if level >= before.told:
        return before.told, 0.0
    since = before.lower_since or now
    return (int(level), 0.0) if now - since >= CALM_S else (before.told, since)


def _told(change: Change, kind: str, of: Standing, now: float, windows: Mapping[Level, Window]) -> Change:
    """The change with its notice, or with its subject held back in the window."""
    notice = Notice(
        kind=kind, rule=of.rule, subject=of.subject, level=of.level, reach=max(of.heard, int(of.level)), text=of.text,
        remedy=of.remedy, since=of.since, at=now,
    )  # fmt: skip
    window = windows.get(of.level)
    notices: list[Notice] = []
    if window is not None and _is_over(window, now):
        notices = [_summary(of.rule, of.level, window, now)] if window.held or window.more else []
        window = None
    window = window or Window(now)
    if window.passed < PASSED:
        window = replace(window, passed=window.passed + 1)
        notices.append(notice)
    elif len(window.held) >= HELD:
        window = replace(window, more=window.more + 1, reach=max(window.reach, notice.reach))
    elif of.subject not in window.held:
        window = replace(window, held=(*window.held, of.subject), reach=max(window.reach, notice.reach))
    return replace(change, windows={**change.windows, of.level: window}, notices=tuple(notices))


def _is_over(window: Window, now: float) -> bool:
    # Also where the clock was set back.
    return not 0 <= now - window.since < WINDOW_S


def _summary(rule: str, level: Level, window: Window, now: float) -> Notice:
    count = len(window.held) + window.more
    names = ", ".join(window.held[:NAMED]) + (", …" if count > NAMED else "")
    over = " recovered" if level is Level.INFO else ""
    text, reach = f"{rule}: and {count} more{over}: {names}", max(window.reach, int(level))
    return Notice(
        kind="more", rule=rule, subject="mesh", level=level, reach=reach, text=text,
        remedy="`gpu-mesh alerts` lists all", since=window.since, at=now,
    )  # fmt: skip


def _span(seconds: float) -> str:
    for limit, size, unit in ((120.0, 1, "s"), (7200.0, 60, "min"), (172_800.0, 3600, "h")):
        if seconds < limit:
            return f"{max(0.0, seconds) / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"
