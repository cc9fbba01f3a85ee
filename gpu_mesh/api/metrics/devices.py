"""What is measured of nodes, devices and watched addresses."""

from __future__ import annotations

from collections import Counter, defaultdict

from gpu_mesh.api.metrics.table import Families
from gpu_mesh.domain.device import GB, Device
from gpu_mesh.domain.health import State
from gpu_mesh.domain.untyped import mapping, number
from gpu_mesh.services.health_views import DEVICE, ENDPOINT, NODE, DeviceVitals, HealthView, subject, views
from gpu_mesh.store.cordons import is_cordoned
from gpu_mesh.store.nodes import NodeEntry
from gpu_mesh.store.scrape import Scrape

__all__ = ["DEVICES", "ENDPOINTS", "NODES", "measure"]

#: So many are told of one by one, the first by name.
NODES, DEVICES, ENDPOINTS = 500, 500, 100
STATES = tuple(state.value for state in State)
UNCHECKED = HealthView()


def measure(into: Families, seen: Scrape, ttl_s: float) -> None:
    """All of it; `ttl_s`: how long a node may be silent and count as online."""
    checked = views(seen.checked)
    into.put("left_out", max(0, len(seen.nodes) - NODES), "nodes")
    for entry in seen.nodes[:NODES]:
        _node(into, seen, entry, ttl_s, checked.get(subject(NODE, entry.node.name), UNCHECKED))
    devices = [device for entry in seen.nodes if not entry.left for device in entry.node.devices]
    into.put("left_out", max(0, len(devices) - DEVICES), "devices")
    busy = {worker for one in seen.holdings for worker in (one.worker, *one.siblings)}
    for device in devices[:DEVICES]:
        its = checked.get(subject(DEVICE, device.worker), UNCHECKED)
        _device(into, seen, device, its, device.worker in busy)
    _counted(into, seen, devices[:DEVICES])
    watched = sorted(name for name in checked if name.startswith(subject(ENDPOINT, "")))
    for name in watched[:ENDPOINTS]:
        into.put_state("endpoint_state", STATES, checked[name].state, name.partition(":")[2])


def _node(into: Families, seen: Scrape, entry: NodeEntry, ttl_s: float, its: HealthView) -> None:
    node = entry.node
    into.put("node_info", 1.0, node.name, node.role, node.version)
    into.put("node_online", float(entry.online(ttl_s)), node.name)
    into.put("node_left", float(entry.left), node.name)
    into.put("node_silent_seconds", entry.silent_s, node.name)
    into.put("node_cordoned", float(node.name in seen.cordoned), node.name)
    into.put_state("node_state", STATES, its.state, node.name)
    into.put("node_score_ratio", _share(its.score), node.name)
    if its.node is not None:
        into.put("node_load_ratio", its.node.load, node.name)
        into.put("node_memory_used_ratio", its.node.memory, node.name)
        into.put("node_disk_used_ratio", its.node.disk, node.name)
    one = seen.checked.get(subject(NODE, node.name))
    if one is not None:
        into.put("node_clock_skew_seconds", number(mapping(one.report).get("skew_s")), node.name)


def _device(into: Families, seen: Scrape, device: Device, its: HealthView, busy: bool) -> None:
    at = device.node, device.name
    into.put("device_info", 1.0, *at, device.kind.value, device.gpu_type)
    into.put("device_busy", float(busy), *at)
    into.put("device_cordoned", float(is_cordoned(device.worker, dict(seen.cordoned))), *at)
    into.put("device_lease_seconds", max(0.0, seen.leases.get(device.worker, seen.now) - seen.now), *at)
    into.put_state("device_state", STATES, its.state, *at)
    into.put("device_score_ratio", _share(its.score), *at)
    into.put("device_strikes", its.strikes, *at)
    into.put("device_response_seconds", None if its.response_ms is None else its.response_ms / 1000, *at)
    into.put("device_models_loaded", len(its.models), *at)
    told = its.device or DeviceVitals()
    total_gb = device.memory_gb if told.memory_total_gb is None else told.memory_total_gb
    into.put("device_memory_total_bytes", total_gb * GB, *at)
    into.put("device_memory_used_bytes", _bytes(told.memory_used_gb), *at)
    into.put("device_memory_held_bytes", _bytes(told.held_gb), *at)
    into.put("device_utilisation_ratio", told.utilisation, *at)
    into.put("device_temperature_celsius", told.temperature_c, *at)
    into.put("device_power_watts", told.power_w, *at)


def _counted(into: Families, seen: Scrape, devices: list[Device]) -> None:
    """Of those that are here: what others did is in the queues' counters."""
    outcomes, ran_s = Counter[tuple[str, str]](), defaultdict[str, float](float)
    for (*_, outcome, worker), runs in seen.counts.runs.items():
        outcomes[worker, outcome.value] += runs.count
        ran_s[worker] += runs.ran_s
    named = defaultdict[str, list[tuple[str, int]]](list)
    for (worker, name), count in sorted(outcomes.items()):
        named[worker].append((name, count))
    for device in devices:
        at, worker = (device.node, device.name), device.worker
        for name, count in named[worker]:
            into.put("device_runs_total", count, *at, name)
        into.put("device_busy_seconds_total", ran_s[worker] + seen.counts.served.get(worker, 0.0), *at)
        into.put("device_model_swaps_total", seen.counts.swaps.get(worker, 0), *at)


def _share(percent: float | None) -> float | None:
    return None if percent is None else percent / 100


def _bytes(gb: float | None) -> float | None:
    return None if gb is None else gb * GB
