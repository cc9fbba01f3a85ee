"""A line of the log: a record as JSON, a line read again, and how it is shown (SPEC H8)."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any

from gpu_mesh.domain.addresses import mask

__all__ = ["LEVELS", "Wanted", "as_line", "as_text", "parse"]

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
#: Longest text that is kept of a message, an exception or an extra, characters.
LONGEST = {"message": 16_000, "exception": 32_000}
LONGEST_EXTRA = 2000
#: What stands first in a line, in this order; the rest are extras.
FIELDS = ("time", "level", "node", "process", "pid", "logger", "message", "exception")
#: Attributes of every record, which are no extras.
_OWN = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | frozenset(
    ("message", "asctime", "taskName", "data", "mesh_process")
)
_ADDRESS = re.compile(r"\S*://\S+")
_FORMATTER = logging.Formatter()
#: Where a line begins behind one that was torn.
_BEGIN = '{"time":'


def as_line(record: logging.LogRecord, given: Mapping[str, Any], zone: tzinfo | None = None) -> str:
    """The record as one line of JSON, with passwords in addresses hidden. `given`: what the process adds.

    `zone`: of the time that is shown; None for this machine's.
    """
    found: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created).astimezone(zone).isoformat(timespec="milliseconds"),
        "level": record.levelname,
        "node": given.get("node"),
        "process": record.__dict__.get("mesh_process", given.get("process")),
        "pid": record.process,
        "logger": record.name,
        "message": _clean(_said(record), LONGEST["message"]),
    }
    found |= {name: value for name, value in given.items() if name not in FIELDS}
    data = record.__dict__.get("data")
    if isinstance(data, Mapping) and "id" in data:  # Celery's records of a task
        found |= {"task": str(data["id"]), "task_name": str(data.get("name", ""))}
    for name, value in record.__dict__.items():
        if name not in _OWN and name not in FIELDS:
            found[name] = _plain(value)
    if (told := _exception(record)) is not None:
        found["exception"] = _clean(told, LONGEST["exception"])
    return json.dumps(found, ensure_ascii=False, separators=(", ", ": "), default=repr)


def _said(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as exc:  # noqa: BLE001  # wrong arguments of a stranger's log call must not cost the line
        return f"{record.msg} {record.args!r} ({exc})"


def _exception(record: logging.LogRecord) -> str | None:
    if record.exc_info and isinstance(record.exc_info, tuple) and record.exc_info[1] is not None:
        try:
            return _FORMATTER.formatException(record.exc_info)
        except Exception:  # noqa: BLE001  # Celery hands over tracebacks of its own kind
            return repr(record.exc_info[1])
    return record.exc_text


def _clean(text: str, longest: int) -> str:
    if len(text) > longest:
        text = f"{text[:longest]}… ({len(text)} characters)"
    # Word by word: `mask` hides all up to the last @.
    return _ADDRESS.sub(lambda found: mask(found[0]), text) if "://" in text else text


def _plain(value: object) -> object:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return _clean(value if isinstance(value, str) else repr(value), LONGEST_EXTRA)


def parse(line: str) -> dict[str, Any] | None:
    """A line read again; of one that a torn one stands before, the whole one; None where there is none."""
    begin = line.rfind(_BEGIN)
    if begin < 0:
        return None
    try:
        found = json.loads(line[begin:])
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def as_text(found: Mapping[str, Any]) -> str:
    """A line for people: time, level, process, message, what else is told; an exception below."""
    time = str(found.get("time", ""))[:23].replace("T", " ")
    level, process = str(found.get("level", "")), str(found.get("process") or "")
    more = " ".join(f"{name}={value}" for name, value in found.items() if name not in FIELDS)
    text = f"{time} {level:<7} {process:<12} {found.get('logger')}: {found.get('message')}"
    exception = found.get("exception")
    return f"{text}{f'  [{more}]' if more else ''}" + (f"\n{exception}" if exception else "")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines are wanted: from a level on, of a node or process, since then (s), of a task."""

    level: str = "DEBUG"
    node: str | None = None
    #: Also the part before the `@`.
    process: str | None = None
    since: float = 0.0
    #: Its id, or how it begins.
    task: str | None = None

    def takes(self, found: Mapping[str, Any]) -> bool:
        """Whether a line is one of them; of an unknown level it is."""
        level = str(found.get("level"))
        if level in LEVELS and LEVELS.index(level) < LEVELS.index(self.level):
            return False
        if self.node is not None and found.get("node") != self.node:
            return False
        process = str(found.get("process"))
        if self.process is not None and self.process not in (process, process.partition("@")[0]):
            return False
        if self.task is not None and not str(found.get("task", "")).startswith(self.task):
            return False
        return not self.since or _stamp(found) >= self.since


def _stamp(found: Mapping[str, Any]) -> float:
    try:
        return datetime.fromisoformat(str(found.get("time"))).timestamp()
    except ValueError:
        return 0.0
