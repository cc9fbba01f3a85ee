"""Alerts of who is ill, flaps or is well again (SPEC H5, H6)."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from gpu_mesh.domain.alerts import Alert, Level
from gpu_mesh.domain.health import Health, State
from gpu_mesh.domain.holds import node_of
from gpu_mesh.services import alerts
from gpu_mesh.store import health
from gpu_mesh.store.alerts import standing as standing_alerts
from gpu_mesh.store.health import DEVICE, NODE, Checked

__all__ = ["FLAPPING", "tell", "words"]

#: Passed checks after which a node that was ill has its workers up again.
BACK = 3
#: The rule of alerts about who falls and recovers again and again.
FLAPPING = "flapping"

_LEVELS = {State.DEGRADED: Level.WARNING, State.UNHEALTHY: Level.ERROR, State.OFFLINE: Level.CRITICAL}


def tell(client: Any, before: Mapping[str, Checked], after: Mapping[str, Checked], missing: Container[str]) -> None:
    """Post and clear what a check leads to; `missing`: the nodes that are not heard of."""
    # What stands, not what was: a check may have died before it told.
    standing = {(one.rule, one.subject) for one in standing_alerts(client)}
    for one in after.values():
        was = before[one.subject].health if one.subject in before else Health()
        if one.health.flapping and (FLAPPING, one.name) not in standing:
            _tell_of_flapping(client, one, was)
        elif not one.health.flapping and (FLAPPING, one.name) in standing:
            alerts.clear(client, FLAPPING, one.name, "has been well for a while")
        # Its node's alert tells of it too, also while the node is coming up again.
        node = after.get(health.subject(NODE, node_of(one.name))) if one.kind == DEVICE else None
        covered = node is not None and (node.name in missing or (_is_back(node) and _has_no_worker(one)))
        if one.health.state is State.HEALTHY:
            if (one.kind, one.name) in standing:
                alerts.clear(client, one.kind, one.name, "is healthy")
        elif one.health.findings and not covered and not _is_silent_node(one):
            _tell_of_illness(client, one)


def _tell_of_flapping(client: Any, one: Checked, was: Health) -> None:
    falls = one.health.falls
    text = f"fails and recovers again and again: {len(falls)} times in {falls[-1] - falls[0] + 1} checks"
    remedy = f"it counts as degraded until it has passed for a while; last: {words(was)}"
    alerts.post(client, Alert(rule=FLAPPING, subject=one.name, level=Level.WARNING, text=text, remedy=remedy))


def _tell_of_illness(client: Any, one: Checked) -> None:
    level = _LEVELS.get(one.health.state)
    if level is None:
        return
    remedy = next((finding.remedy for finding in one.health.findings if finding.remedy), "")
    text = f"is {one.health.state}: {words(one.health)}"
    alerts.post(client, Alert(rule=one.kind, subject=one.name, level=level, text=text, remedy=remedy))


def _is_back(node: Checked) -> bool:
    """Whether it was ill until a few checks ago."""
    return node.health.failed > 0 and node.health.passed < BACK


def _has_no_worker(one: Checked) -> bool:
    return any(finding.what == "worker" for finding in one.health.findings)


def _is_silent_node(one: Checked) -> bool:
    """The fleet's rule tells of it, and sooner (services/fleet)."""
    return one.kind == NODE and any(finding.what == NODE for finding in one.health.findings)


def words(state: Health) -> str:
    """What is wrong, in one line."""
    said = "; ".join(finding.text for finding in state.findings)
    return f"{said} ({state.strikes} strike{'s' if state.strikes > 1 else ''})" if state.strikes else said
