"""Alerts: raised once, told, and taken back when what they told of is over (SPEC H5-H7).

The log is the first channel: each alert is in it, once, whatever becomes of the others, to which services/announcing
sends what stands in the outbox.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any

from gpu_mesh.domain.alert_rules import RULES
from gpu_mesh.domain.alerts import Alert, Level, Silence, Standing
from gpu_mesh.domain.moments import parse_until, shown
from gpu_mesh.errors import BrokerUnavailable, InvalidValue
from gpu_mesh.services import windows
from gpu_mesh.services.gates import whoami
from gpu_mesh.settings import Settings, settings
from gpu_mesh.store import alerts as store
from gpu_mesh.store import server
from gpu_mesh.store import windows as plans
from gpu_mesh.store.alerts import Past
from gpu_mesh.store.client import connect, mapped_errors

__all__ = ["Overview", "clear", "drop", "post", "read", "silence", "time_of", "unsilence"]

logger = logging.getLogger(__name__)

#: How long ago what is over may have ended to be shown, s: a day.
SHOWN_S = 86_400.0
#: Silences are shown so long after their end, and then forgotten, s.
SILENCES_KEPT_S = 86_400.0


def post(client: Any, alert: Alert) -> None:
    """Raise an alert. Of one rule and subject that is raised already nothing is told again, unless its level rose.

    One of level INFO is an event: told, and over. `client`: a Redis client. Raises BrokerUnavailable; the log has the
    alert all the same.
    """
    try:
        with mapped_errors(settings()):
            is_news = store.post(client, alert).is_news
    except BrokerUnavailable:
        _log(alert.level, alert.rule, alert.subject, alert.text, alert.remedy)
        raise
    if is_news:
        _log(alert.level, alert.rule, alert.subject, alert.text, alert.remedy)


def clear(client: Any, rule: str, subject: str, text: str) -> None:
    """What the alert of that rule and subject told of is over: whoever was told hears it, as INFO. Nothing if none is
    raised. Raises BrokerUnavailable."""
    with mapped_errors(settings()):
        if store.clear(client, rule, subject, text) is None:
            return
    logger.info("%s: over: %s", subject, text, extra={"action": "alert_over", "rule": rule})


def _log(level: Level, rule: str, subject: str, text: str, remedy: str) -> None:
    words = f"{text} ({remedy})" if remedy else text
    logger.log(level, "%s: %s", subject, words, extra={"action": "alert", "rule": rule})


@dataclass(frozen=True, slots=True)
class Overview:
    """What stands, what is over, and silences that hold; `now` in s since the epoch, times are of that zone."""

    standing: list[Standing]
    past: list[Past]
    silences: list[Silence]
    now: float
    zone: tzinfo

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return {
            "standing": [
                {**{name: one.to_dict()[name] for name in _SHOWN}, "silenced": self.is_silenced(one)}
                for one in self.standing
            ],
            "past": [one.to_dict() for one in self.past],
        }

    def is_silenced(self, one: Standing) -> bool:
        """Whether a silence keeps its news from being told."""
        return any(silence.holds(one.rule, one.subject, self.now) for silence in self.silences)

    def time(self, stamp: float) -> str:
        """A time as people of the mesh's zone read it."""
        return shown(stamp, self.now, self.zone)


_SHOWN = ("rule", "subject", "level", "text", "remedy", "since")


def read(settings: Settings, *, every: bool = False) -> Overview:
    """What stands, and what ended within a day, or with `every` all that is kept. Raises BrokerUnavailable."""
    with mapped_errors(settings), connect(settings) as client:
        now, zone = server.now(client), _zone(client, settings)
        past = [one for one in store.past(client) if every or now - one.recovered <= SHOWN_S]
        return Overview(store.standing(client), past, _silences(client, now), now, zone)


def silence(
    settings: Settings, rule: str, *, subject: str = "*", until: str | None = None, why: str = "", by: str | None = None
) -> tuple[Silence, Overview]:
    """Have what matches told to nobody until then; with what it meets. Raises InvalidValue, BrokerUnavailable."""
    if not rule.strip() or not subject.strip():
        raise InvalidValue("RULE" if not rule.strip() else "--subject", "", "a name, or a pattern such as '*'")
    if rule not in RULES and not any(sign in rule for sign in "*?["):
        raise InvalidValue("RULE", rule, f"one of {', '.join(RULES)}, or a pattern such as '*'")
    with mapped_errors(settings), connect(settings) as client:
        now, zone = server.now(client), _zone(client, settings)
        end = None if until is None else parse_until(until, now, zone)
        words = " ".join(why.split())
        made = store.silence(client, rule, subject, end, by or whoami(settings), words)
    return made, read(settings)


def unsilence(settings: Settings, which: Sequence[str]) -> list[Silence]:
    """Take silences back, by id, by rule or `all`; those it met. Raises InvalidValue, BrokerUnavailable."""
    with mapped_errors(settings), connect(settings) as client:
        held = _silences(client, server.now(client))
        found = [one for one in held if "all" in which or one.id in which or one.rule in which]
        if not found and "all" not in which:
            raise InvalidValue("SILENCE", " ".join(which), "no such silence; `gpu-mesh alerts silences` lists them")
        store.unsilence(client, *(one.id for one in found))
    return found


def drop(settings: Settings, rule: str, subject: str) -> bool:
    """Take an alert back by hand, of which nobody will say that it is over. Raises BrokerUnavailable."""
    with mapped_errors(settings), connect(settings) as client:
        found = any((one.rule, one.subject) == (rule, subject) for one in store.standing(client))
        clear(client, rule, subject, f"taken back by {whoami(settings)}")
    return found


def time_of(client: Any, settings: Settings, stamp: float) -> str:
    """A moment as messages have it: date, time and zone of the mesh."""
    zone = _zone(client, settings)
    return f"{datetime.fromtimestamp(stamp, zone):%Y-%m-%d %H:%M:%S} ({zone})"


def _silences(client: Any, now: float) -> list[Silence]:
    """Those that hold; those long over are forgotten."""
    held = store.silences(client)
    store.unsilence(client, *(one.id for one in held if one.until is not None and one.until + SILENCES_KEPT_S <= now))
    return [one for one in held if one.until is None or one.until > now]


def _zone(client: Any, settings: Settings) -> tzinfo:
    told, _ = plans.read(client)
    return windows.zone_of((told or windows.own_plan(settings)).zone)
