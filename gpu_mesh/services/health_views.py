"""How nodes, devices and watched addresses are, as interfaces show it: state, figures, findings (SPEC H1-H3)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpu_mesh.domain.health import State
from gpu_mesh.domain.untyped import mapping, number
from gpu_mesh.store import health
from gpu_mesh.store.health import DEVICE, ENDPOINT, NODE, Checked, subject

__all__ = ["DEVICE", "ENDPOINT", "NODE", "DeviceVitals", "HealthView", "NodeVitals", "health_views", "subject", "views"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NodeVitals:
    """A machine as its worker saw it last: load of 1 min per core, shares of memory and disk in use."""

    load: float | None = None
    memory: float | None = None
    disk: float | None = None


@dataclass(frozen=True, slots=True)
class DeviceVitals:
    """A device as its worker read it last; memory in GB. `held_gb`: held by processes that are neither ours nor the
    engine's."""

    memory_used_gb: float | None = None
    memory_total_gb: float | None = None
    utilisation: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    held_gb: float | None = None


@dataclass(frozen=True, slots=True)
class HealthView:
    """One subject by its last check (domain/health). `success_rate` in percent, `score` 0 to 100."""

    state: str = State.UNKNOWN.value
    success_rate: float | None = None
    score: float | None = None
    #: Failed checks in a row.
    strikes: int = 0
    flapping: bool = False
    #: All checks, and those that failed.
    checks: int = 0
    failed: int = 0
    #: When the state began, and when it was checked last; s since the epoch.
    since: float | None = None
    checked_at: float | None = None
    response_ms: float | None = None
    models: list[str] = field(default_factory=list)
    #: What the last check found, in words.
    findings: list[str] = field(default_factory=list)
    #: The address, of one that is watched.
    url: str | None = None
    node: NodeVitals | None = None
    device: DeviceVitals | None = None


def health_views(client: Any) -> dict[str, HealthView]:
    """Everybody that was checked, by subject such as `device:gpu0@office`. What cannot be read is left out, with a
    logged warning."""
    return views(health.all_checked(client))


def views(checked: Mapping[str, Checked]) -> dict[str, HealthView]:
    """The same, of what was read."""
    found = {}
    for name, one in checked.items():
        try:
            found[name] = _condition(one)
        except (TypeError, ValueError, AttributeError, ArithmeticError) as exc:
            logger.warning("the health of %s makes no sense: %r", name, exc, extra={"action": "read_health"})
    return found


def _condition(one: Checked) -> HealthView:
    its = one.health
    return HealthView(
        state=its.state.value,
        success_rate=None if its.success_rate is None else round(float(its.success_rate), 2),
        score=round(float(its.score), 1) if its.checks else None,
        strikes=int(its.strikes),
        flapping=bool(its.flapping),
        checks=int(its.checks),
        failed=int(its.failed),
        since=float(its.since),
        checked_at=float(its.checked_at),
        response_ms=number(one.response_ms),
        models=list(one.models),
        findings=[finding.text for finding in its.findings],
        url=one.url,
        node=_node(one.report) if one.kind == NODE else None,
        device=_device(one.report) if one.kind == DEVICE else None,
    )


def _node(report: Mapping[str, Any]) -> NodeVitals:
    return NodeVitals(*(number(report.get(name)) for name in ("load", "memory", "disk")))


def _device(report: Mapping[str, Any]) -> DeviceVitals:
    told = mapping(report.get("device"))
    return DeviceVitals(
        memory_used_gb=number(told.get("memory_used_gb")),
        memory_total_gb=number(told.get("memory_total_gb")),
        utilisation=number(told.get("utilisation")),
        temperature_c=number(told.get("temperature_c")),
        power_w=number(told.get("power_w")),
        held_gb=number(report.get("held_gb")),
    )
