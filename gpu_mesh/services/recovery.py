"""Recovery of what is ill: a node is ordered to restart its engine, of the rest the operator is told (SPEC H4, H5).

After each check, with pauses between the attempts (domain/recovery). The node carries it out (workers/repairs).
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Mapping
from typing import Any

from gpu_mesh.domain.alerts import Alert, Level
from gpu_mesh.domain.holds import node_of
from gpu_mesh.domain.recovery import plan
from gpu_mesh.domain.untyped import mapping, sequence
from gpu_mesh.services import alerts
from gpu_mesh.settings import Settings
from gpu_mesh.store import repairs
from gpu_mesh.store.alerts import standing
from gpu_mesh.store.client import connect, mapped_errors
from gpu_mesh.store.health import DEVICE, Checked
from gpu_mesh.store.health import checked as checked_one
from gpu_mesh.store.repairs import FAILED, RECOVERED, Repair

__all__ = ["RECOVERY", "attempts", "tick"]

logger = logging.getLogger(__name__)

#: The rule of alerts about attempts that did not help.
RECOVERY = "recovery"


def tick(client: Any, now: float, checked: Iterable[Checked]) -> None:
    """Order what can mend those that are unhealthy or offline, and tell what became of it. `now`: s since the epoch."""
    found = {one.name: one for one in checked if one.kind == DEVICE}
    repairs.tell(client, lambda repair: _tell(client, repair))
    for alert in standing(client):
        if alert.rule == RECOVERY:
            _follow(client, alert.subject, found.get(alert.subject))
    for one in found.values():
        if not one.health.is_claimable:
            _order(client, now, one)


def attempts(settings: Settings, worker: str) -> list[Repair]:
    """What was tried for the engine of a device, the newest first. Raises BrokerUnavailable."""
    with mapped_errors(settings), connect(settings) as client:
        one = checked_one(client, DEVICE, worker)
        urls = set() if one is None else {str(engine.get("url")) for engine in _engines(one)}
        return [repair for repair in repairs.history(client) if _concerns(repair, worker, urls)]


def _concerns(repair: Repair, worker: str, urls: Container[str]) -> bool:
    """Whether it was an attempt at the worker's engine: its own, or one that was made for another device with it."""
    order = repair.order
    shares = order.node == node_of(worker) and order.engine_url in urls
    return order.worker == worker or (shares and repair.outcome in (RECOVERED, FAILED))


def _follow(client: Any, worker: str, one: Checked | None) -> None:
    """The end of an alert about attempts: somebody else may have mended the engine."""
    if one is None:
        alerts.clear(client, RECOVERY, worker, "is no longer part of the mesh")
    elif one.health.is_claimable and one.health.strikes == 0:
        alerts.clear(client, RECOVERY, worker, "its engine answers again")


def _order(client: Any, now: float, one: Checked) -> None:
    url, node = _silent_url(one), node_of(one.name)
    if url is None:
        return
    tried = [repair.ended_at for repair in repairs.history(client) if _concerns(repair, one.name, (url,))]
    ended = [at for at in tried if at is not None]
    chosen = plan(one.health, now, ended, is_busy=bool(repairs.pending(client, node)))
    if chosen.wait is None:
        repairs.order(client, node, one.name, url, chosen.attempt)
        logger.warning(
            "%s is to restart the engine of %s, attempt %d", node, one.name, chosen.attempt, extra={"action": "recover"}
        )


def _silent_url(one: Checked) -> str | None:
    """The address of the device's engine that does not answer."""
    silent = (engine for engine in _engines(one) if engine.get("reachable") is False)
    return next((str(engine["url"]) for engine in silent if engine.get("url")), None)


def _engines(one: Checked) -> list[Mapping[str, Any]]:
    return [mapping(engine) for engine in sequence(one.report.get("engines"))]


def _tell(client: Any, repair: Repair) -> None:
    worker, attempt = repair.order.worker, repair.order.attempt
    if repair.outcome == RECOVERED:
        logger.info("the engine of %s: %s", worker, repair.why, extra={"action": "recovered", "subject": worker})
        alerts.clear(client, RECOVERY, worker, f"its engine is back, attempt {attempt}: {repair.why}")
        return
    said = f"; it said: {repair.output[-1]}" if repair.output else ""
    text = f"its engine was not restarted, attempt {attempt}: {repair.outcome}: {repair.why}{said}"
    level = Level.ERROR if repair.outcome == FAILED else Level.WARNING
    remedy = f"restart it by hand on {repair.order.node}; `gpu-mesh health {worker}` lists the attempts"
    alerts.post(client, Alert(rule=RECOVERY, subject=worker, level=level, text=text, remedy=remedy))
