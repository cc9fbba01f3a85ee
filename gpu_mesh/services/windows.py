"""Windows: ai-batch is closed in peak hours (SPEC R2), and pauses with an end end.

`tick` brings the gates in line with the clock, whatever was missed. Three call it: the worker that tends the leases,
each second, so that nobody waits for a beat that is dead; beat's task; and the control worker when it starts. The hours
are those of the lead, which writes them down; in a mesh that never had one, those of the worker that tends.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta, tzinfo
from functools import cache, lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import tzlocal

from gpu_mesh.domain.windows import PeakHours, Period, Phase, moment
from gpu_mesh.settings import Settings
from gpu_mesh.store import closings, gates, server
from gpu_mesh.store import windows as store
from gpu_mesh.store.client import connect, mapped_errors
from gpu_mesh.store.closings import Closings
from gpu_mesh.store.windows import Opened, Plan

__all__ = ["REASON", "WINDOWED", "Today", "follow", "is_peak", "own_plan", "reconcile", "tick", "today", "zone_of"]

logger = logging.getLogger(__name__)

#: Queues that peak hours close.
WINDOWED = ("ai-batch",)
#: Why they are.
REASON = "window"
MINUTE_S = 60.0
_parse = cache(PeakHours.parse)


@dataclass(frozen=True, slots=True)
class Today:
    """The windows as `gpu-mesh windows` shows them; times in s since the epoch."""

    plan: Plan
    now: float
    phase: Phase
    #: Peak hours that overlap today, in the plan's zone.
    periods: list[Period]
    #: Queues opened by hand.
    opened: dict[str, Opened]
    #: What this machine's own settings say, where that is not what holds.
    other: Plan | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return asdict(self)


@cache
def zone_of(name: str) -> tzinfo:
    """The time zone of that name; UTC, with a warning, where this machine does not know it."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        logger.warning("time zone %r is not known here: UTC is taken", name, extra={"action": "zone"})
        return ZoneInfo("UTC")


@cache
def _local_zone() -> str:
    try:
        name = tzlocal.get_localzone_name()
        ZoneInfo(name or "")
    except (ValueError, OSError, KeyError):
        logger.warning("this machine's time zone has no name: UTC is taken", extra={"action": "zone"})
        return "UTC"
    return str(name)


@lru_cache(maxsize=8)
def _phase(hours: str, zone: str, minute: int) -> Phase:
    """Of a minute since the epoch: hours begin and end with one, and this is asked each second."""
    return _parse(hours).phase(zone_of(zone), minute * MINUTE_S)


def own_plan(settings: Settings) -> Plan:
    """What this node's settings say; `local` by its name, for other nodes may be elsewhere."""
    zone = _local_zone() if settings.timezone == "local" else settings.timezone
    return Plan(settings.peak_hours, zone, settings.node_name)


def is_peak(plan: Plan, now: float) -> bool:
    """Whether `now`, s since the epoch, lies in the plan's peak hours."""
    return _parse(plan.hours).phase(zone_of(plan.zone), now).is_peak


def reconcile(client: Any, settings: Settings, *, leads: bool = False) -> None:
    """A tick at Redis's time, which all nodes share."""
    tick(client, settings, server.now(client), leads=leads)


def tick(client: Any, settings: Settings, now: float, *, leads: bool = False) -> None:
    """Open and close what the clock says; `leads`: this node's hours are the mesh's. `now`: s since the epoch."""
    follow(client, settings, replace(closings.read(client), now=now), leads=leads)


def follow(client: Any, settings: Settings, seen: Closings, *, leads: bool = False) -> None:
    """The same, for what was just read."""
    now, told = seen.now, seen.plan
    plan = _lead(client, told, own_plan(settings)) if leads else told or own_plan(settings)
    for gate in seen.gates:
        if gate.reason != REASON and gate.until is not None and gate.until <= now and gates.open_ended(client, gate):
            logger.info("%s opens: the end of %s", gate.queue, gate.reason, extra={"action": "reopen"})
    phase = _phase(plan.hours, plan.zone, int(now // MINUTE_S))
    closed = {gate.queue: gate for gate in seen.gates if gate.reason == REASON and gate.scope == gates.MESH}
    for queue in WINDOWED:
        _set(client, plan, phase, queue, closed.get(queue), _open_by_hand(client, queue, seen.opened.get(queue), now))


def _lead(client: Any, told: Plan | None, own: Plan) -> Plan:
    if told is not None and (told.hours, told.zone) == (own.hours, own.zone):
        return told  # another lead's, which says the same
    if told is not None:
        logger.warning(
            "peak hours are %s (%s) by %s from now on; they were %s (%s) by %s",
            *(own.hours, own.zone, own.by, told.hours, told.zone, told.by),
            extra={"action": "windows"},
        )
    store.set_plan(client, own)
    return own


def _open_by_hand(client: Any, queue: str, opened: Opened | None, now: float) -> bool:
    if opened is not None and opened.until <= now:
        store.keep_closed(client, queue)
        return False
    return opened is not None


def _set(client: Any, plan: Plan, phase: Phase, queue: str, held: gates.Gate | None, by_hand: bool) -> None:
    by = f"peak hours {plan.hours} ({plan.zone})"
    if not phase.is_peak or by_hand:
        if held is not None and gates.reopen(client, queue, REASON):
            logger.info("%s opens: %s", queue, "by hand" if by_hand else by, extra={"action": "window_open"})
    elif held is not None and (held.until, held.by) == (phase.until, by):
        return
    elif gates.close(client, queue, REASON, by=by, until=phase.until):
        logger.info("%s closes: %s", queue, by, extra={"action": "window_close"})


def today(settings: Settings) -> Today:
    """The windows as they are. Raises BrokerUnavailable."""
    with mapped_errors(settings), connect(settings) as client:
        now = server.now(client)
        told, opened = store.read(client)
    own = own_plan(settings)
    plan = told or own
    hours, zone = _parse(plan.hours), zone_of(plan.zone)
    day = datetime.fromtimestamp(now, zone).date()
    midnights = moment(day, 0, zone), moment(day + timedelta(days=1), 0, zone)
    return Today(
        plan=plan,
        now=now,
        phase=hours.phase(zone, now),
        periods=hours.periods(zone, *midnights),
        opened={queue: one for queue, one in opened.items() if one.until > now},
        other=None if (own.hours, own.zone) == (plan.hours, plan.zone) else own,
    )
