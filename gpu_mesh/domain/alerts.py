"""What operators are told (SPEC H5-H7): how grave it is, of what, and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

__all__ = ["Alert", "Level"]


class Level(IntEnum):
    """How grave it is (SPEC H6); the numbers are those of `logging`."""

    INFO = 20
    WARNING = 30
    ERROR = 40
    CRITICAL = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One thing that an operator should know. One rule and one subject are one alert, however often it is raised."""

    #: What it is about: `device`, `node`, `endpoint`, `disconnected`, `failures`, `backlog`, `memory`, ….
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
