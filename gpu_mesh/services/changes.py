"""What changed between two readings of the mesh, as events (domain/happenings): gates, alerts, nodes, devices."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from gpu_mesh.domain.happenings import happened
from gpu_mesh.services.health_views import HealthView
from gpu_mesh.services.recent_alerts import AlertView
from gpu_mesh.services.snapshot import ONLINE, DeviceView, NodeView, Snapshot

__all__ = ["changes"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
Event = dict[str, Any]


def changes(before: Snapshot, after: Snapshot) -> list[Event]:
    """In the order: nodes and devices, watched addresses, gates, alerts."""
    return [
        *_nodes(before.nodes, after.nodes, after.at),
        *_endpoints(before, after),
        *_gates(before, after),
        *_alerts(before.alerts, after.alerts, after.at),
    ]


def _nodes(before: Iterable[NodeView], after: Iterable[NodeView], at: float) -> Iterator[Event]:
    was, now = {node.name: node for node in before}, {node.name: node for node in after}
    for name in was.keys() - now.keys():
        yield happened("node.removed", at, node=name)
    for name, node in now.items():
        if name not in was:
            yield happened("node.joined", at, node=name)
            continue
        if node.status != was[name].status:
            yield happened("node.online" if node.status == ONLINE else "node.offline", at, node=name)
        if changed := _states(was[name].condition, node.condition):
            yield happened("node.state", at, node=name, **changed)
        earlier = {device.worker: device for device in was[name].devices}
        for device in node.devices:
            if device.worker in earlier:
                yield from _device(name, earlier[device.worker], device, at)


def _device(node: str, was: DeviceView, now: DeviceView, at: float) -> Iterator[Event]:
    told = {"node": node, "worker": now.worker}
    if changed := _states(was.condition, now.condition):
        yield happened("device.state", at, **told, **changed)
    if now.cordoned and now.cordoned != was.cordoned:
        yield happened("device.cordoned", at, **told, why=now.cordoned)
    if was.cordoned and not now.cordoned:
        yield happened("device.uncordoned", at, **told)


def _endpoints(before: Snapshot, after: Snapshot) -> Iterator[Event]:
    for name, view in after.endpoints.items():
        if changed := _states(before.endpoints.get(name), view):
            yield happened("endpoint.state", after.at, endpoint=name, **changed)


def _states(was: HealthView | None, now: HealthView | None) -> dict[str, str | None]:
    """`state` and `was`; empty where it is as it was, or nothing is known any more."""
    earlier = was.state if was is not None else None
    return {} if now is None or now.state == earlier else {"state": now.state, "was": earlier}


def _gates(before: Snapshot, after: Snapshot) -> Iterator[Event]:
    was, now = _closed(before), _closed(after)
    for key, gate in _lacking(now, was):
        yield happened("queue.paused", after.at, **_gate(key[0], gate))
    for key, gate in _lacking(was, now):
        yield happened("queue.resumed", after.at, **_gate(key[0], gate))


def _closed(snapshot: Snapshot) -> dict[tuple[str, str, str], Mapping[str, Any]]:
    """Gates by queue, reason and scope: a gate that is renewed is the same one."""
    return {
        (queue.name, str(gate["reason"]), str(gate["scope"])): gate for queue in snapshot.queues for gate in queue.gates
    }


def _gate(queue: str, gate: Mapping[str, Any]) -> dict[str, Any]:
    return {"queue": queue, **{name: gate.get(name) for name in ("reason", "scope", "by", "since", "until", "why")}}


def _alerts(before: Iterable[AlertView], after: Iterable[AlertView], at: float) -> Iterator[Event]:
    was, now = _standing(before), _standing(after)
    for _, alert in _lacking(now, was):
        yield happened("alert.raised", at, **_alert(alert))
    for _, alert in _lacking(was, now):
        yield happened("alert.cleared", at, **_alert(alert))
    # Told and over at once, or between two readings.
    known = {*was, *map(_key, before)}
    for alert in after:
        if alert.over_at is not None and _key(alert) not in known:
            yield happened("alert.told", at, **_alert(alert))


def _standing(alerts: Iterable[AlertView]) -> dict[tuple[str, str, float], AlertView]:
    return {_key(alert): alert for alert in alerts if alert.over_at is None}


def _key(alert: AlertView) -> tuple[str, str, float]:
    return alert.rule, alert.subject, alert.since


def _alert(alert: AlertView) -> dict[str, Any]:
    return {name: getattr(alert, name) for name in ("level", "rule", "subject", "text", "remedy", "since")}


def _lacking(those: Mapping[K, V], others: Mapping[K, Any]) -> Iterator[tuple[K, V]]:
    """Of `those` what `others` have not."""
    return ((key, value) for key, value in those.items() if key not in others)
