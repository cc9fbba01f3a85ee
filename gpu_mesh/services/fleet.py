"""Alerts of the mesh as a whole (SPEC H7; DESIGN §9): after each check, on the control worker.

Each rule is judged by itself: one that cannot be is logged, and keeps what stands of it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from gpu_mesh.domain import fleet as rules
from gpu_mesh.domain.alerts import Alert, Standing
from gpu_mesh.domain.availability import REALTIME_QUEUE
from gpu_mesh.domain.health import State
from gpu_mesh.domain.queues import GPU_QUEUES
from gpu_mesh.domain.requirements import Requirements
from gpu_mesh.domain.untyped import mapping, number
from gpu_mesh.errors import BrokerUnavailable, InvalidTask
from gpu_mesh.services import alerts, gates, placement, stats
from gpu_mesh.services.lookup import known_queues
from gpu_mesh.settings import Settings
from gpu_mesh.store import alerts as store
from gpu_mesh.store import availability, census, health, nodes, queues, server
from gpu_mesh.store.client import broker_error, kept_client, mapped_errors

__all__ = ["JUDGES", "OVER", "reconcile", "tick"]

logger = logging.getLogger(__name__)

#: The queue whose backlog has a limit of its own: a night's work.
BATCH_QUEUE = "ai-batch"
#: Groups of waiting tasks judged in one look, and dead letters counted.
GROUPS, DEAD_COUNTED = 500, 1000
#: Renewals of their registration that nodes have time for, once Redis is back.
GRACE_REFRESHES = 2
#: What is said of what ended, by rule.
OVER = {
    "disconnected": "it is here again, left in order, or was forgotten",
    "failures": "fewer tasks fail",
    "backlog": "fewer tasks wait",
    "memory": "less memory is in use",
    "dead": "no new dead letter for an hour, or all were dealt with",
    "unschedulable": "what waits fits a device",
    "realtime": "tasks are taken again",
    "redis": "Redis has memory again",
}


def reconcile(settings: Settings) -> None:
    """A tick at Redis's time. Raises BrokerUnavailable."""
    with mapped_errors(settings):
        client = kept_client(settings)
        tick(client, settings, server.now(client))


def tick(client: Any, settings: Settings, now: float) -> None:
    """Post what stands, clear what does not. `now`: s since the epoch. Raises BrokerUnavailable."""
    standing = store.standing(client)
    for rule, judge in JUDGES.items():
        held = [one for one in standing if one.rule == rule]
        try:
            found = judge(client, settings, now, frozenset(one.subject for one in held))
        except Exception as exc:
            if isinstance(exc, BrokerUnavailable) or broker_error(settings, exc) is not None:
                raise
            logger.exception("rule %s cannot be judged", rule, extra={"action": "alerts"})
            continue
        if found is not None:
            _follow(client, rule, found, held)


def _follow(client: Any, rule: str, found: list[Alert], held: list[Standing]) -> None:
    for alert in found:
        alerts.post(client, alert)
    subjects = {alert.subject for alert in found}
    for one in held:
        if one.subject not in subjects:
            alerts.clear(
                client, rule, one.subject, _back(client, one.subject) if rule == "disconnected" else OVER[rule]
            )


def _back(client: Any, name: str) -> str:
    """How a node's absence ended."""
    entry = next((entry for entry in nodes.all_nodes(client) if entry.node.name == name), None)
    if entry is None:
        return "it was forgotten"
    return "it left in order" if entry.left else "it is here again"


def _disconnected(client: Any, settings: Settings, now: float, held: frozenset[str]) -> list[Alert] | None:
    # Redis was away: nobody could be heard.
    if now <= census.grace_until(client) + GRACE_REFRESHES * settings.node_refresh_s:
        return None
    checked = health.all_checked(client)
    offline = {one.name for one in checked.values() if one.kind == health.NODE and one.health.state is State.OFFLINE}
    return rules.disconnected(
        rules.Silent(entry.node.name, entry.silent_s, len(entry.node.devices), entry.node.name in offline)
        for entry in nodes.all_nodes(client)
        if not entry.left and not entry.online(settings.node_ttl_s)
    )


def _failures(client: Any, settings: Settings, now: float, held: frozenset[str]) -> list[Alert]:
    failed, total = stats.failures(client, rules.FAILURES_S)
    if not rules.are_many(failed, total, settings.alert_failures, held):
        return []
    return rules.failures(failed, total, census.failed_names(client, now - rules.FAILURES_S))


def _backlogs(client: Any, settings: Settings, now: float, held: frozenset[str]) -> list[Alert]:
    names = known_queues(settings)
    waiting = queues.depths(client, names)
    if not any(waiting.values()):
        return []
    closures = gates.read_closures(client, settings)
    return rules.backlogs(
        (
            rules.Depth(
                name,
                waiting[name],
                settings.alert_batch_backlog if name == BATCH_QUEUE else settings.alert_backlog,
                closures.why(name),
            )
            for name in names
        ),
        held,
    )


def _gpu_memory(client: Any, settings: Settings, now: float, held: frozenset[str]) -> list[Alert]:
    return rules.gpu_memory(_memory_in_use(client), settings.alert_gpu_memory, held)


def _memory_in_use(client: Any) -> dict[str, tuple[float, float]]:
    """Worker → GB used, GB in all, as the health checks found them last; without workers that are silent."""
    found = {}
    for one in health.all_checked(client).values():
        if one.kind != health.DEVICE or one.response_ms is None:
            continue
        reading = mapping(one.report.get("device"))
        used, total = number(reading.get("memory_used_gb")), number(reading.get("memory_total_gb"))
        if used is not None and total is not None:
            found[one.name] = (used, total)
    return found


def _buried(client: Any, settings: Settings, now: float, held: frozenset[str]) -> list[Alert]:
    found, total = census.dead_lately(client, rules.FRESH_S, DEAD_COUNTED)
    return rules.buried([rules.Buried(queue, why) for queue, why in found], total)


def _unschedulable(client: Any, settings: Settings, now: float, held: frozenset[str]) -> list[Alert]:
    found = [one for one in census.groups(client, rules.PATIENCE_S, GROUPS) if one.queue in GPU_QUEUES]
    if not found:
        return []
    devices, whys, misfits = placement.online_devices(settings), dict[str, str | None](), list[rules.Misfits]()
    for one in found:
        if one.needs not in whys:
            try:
                whys[one.needs] = placement.unschedulable(settings, Requirements.of(json.loads(one.needs)), devices)
            except (InvalidTask, ValueError) as exc:
                whys[one.needs] = str(exc)
        if why := whys[one.needs]:
            misfits.append(rules.Misfits(one.queue, one.count, why))
    return rules.unschedulable(misfits)


def _realtime(client: Any, settings: Settings, now: float, held: frozenset[str]) -> list[Alert]:
    out = availability.outage(client)
    return rules.realtime(None if out is None else out.why, REALTIME_QUEUE)


def _redis_memory(client: Any, settings: Settings, now: float, held: frozenset[str]) -> list[Alert]:
    told = census.memory(client)
    return [] if told is None else rules.redis_memory(told.used, told.limit, told.is_set, held)


#: What judges each rule: client, settings, time, and the subjects of which one stands. None: it cannot be told now.
JUDGES: dict[str, Callable[[Any, Settings, float, frozenset[str]], list[Alert] | None]] = {
    "redis": _redis_memory,
    "realtime": _realtime,
    "disconnected": _disconnected,
    "failures": _failures,
    "backlog": _backlogs,
    "memory": _gpu_memory,
    "dead": _buried,
    "unschedulable": _unschedulable,
}
