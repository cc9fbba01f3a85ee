"""The rules by which alerts are raised: docs/alerts.md has the same table."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RULES", "Rule"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One of them. `levels` as they are raised; who posts it: `fleet` (services/fleet) or `health`."""

    by: str
    levels: tuple[str, ...]


_ERROR, _WARNING, _CRITICAL = ("ERROR",), ("WARNING",), ("CRITICAL",)
#: By name.
RULES: dict[str, Rule] = {
    "device": Rule("health", _WARNING + _ERROR + _CRITICAL),
    "node": Rule("health", _WARNING + _ERROR + _CRITICAL),
    "endpoint": Rule("health", _WARNING + _ERROR + _CRITICAL),
    "flapping": Rule("health", _WARNING),
    "recovery": Rule("health", _WARNING + _ERROR),
    "disconnected": Rule("fleet", _ERROR),
    "failures": Rule("fleet", _ERROR),
    "backlog": Rule("fleet", _WARNING),
    "memory": Rule("fleet", _WARNING),
    "dead": Rule("fleet", _ERROR + _CRITICAL),
    "unschedulable": Rule("fleet", _ERROR),
    "realtime": Rule("fleet", _CRITICAL),
    "redis": Rule("fleet", _ERROR + _CRITICAL),
}
