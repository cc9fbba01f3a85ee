"""The read model: what every interface shows of the mesh, read in one go."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from gpu_mesh.domain.device import DeviceKind
from gpu_mesh.domain.queues import OWN_TASKS, QUEUES
from gpu_mesh.domain.stats import FAILURES, Outcome
from gpu_mesh.services import gates
from gpu_mesh.services.health_views import DEVICE, ENDPOINT, NODE, HealthView, health_views, subject
from gpu_mesh.services.lookup import known_queues, still_running
from gpu_mesh.services.recent_alerts import AlertView, recent
from gpu_mesh.settings import Settings
from gpu_mesh.store import cordons, counters, nodes, preemption, queues, server, stats
from gpu_mesh.store.client import connect, mapped_errors

__all__ = ["DeviceView", "NodeView", "QueueView", "Rates", "Snapshot", "read", "read_from"]

#: Minutes of the longer of the two rates.
MINUTES = 5
ONLINE, OFFLINE = "online", "offline"
#: How their subjects begin.
ENDPOINTS = subject(ENDPOINT, "")


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A device and what it runs (a task id, or None)."""

    worker: str
    gpu_type: str
    memory_gb: float
    power: float
    cost_per_hour: float
    running: str | None
    #: By its last check; None where it was never checked.
    condition: HealthView | None = None
    #: Why it claims nothing though it is there, its node's reasons included; None where it may claim.
    cordoned: str | None = None


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node: `status` is online or offline, `silent_s` how long it was not heard of.

    `gpu_count` leaves out CPUs and Apple's unified memory, as SPEC N1 orders.
    """

    name: str
    role: str
    host: str
    version: str
    status: str
    silent_s: float
    labels: dict[str, str]
    gpu_count: int
    memory_gb: float
    devices: list[DeviceView]
    #: By its last check; None where it was never checked.
    condition: HealthView | None = None


@dataclass(frozen=True, slots=True)
class QueueView:
    """A queue: `weight` and `tier` are None for CPU queues. `gates` says why it is closed, as store/gates has it, the
    whole mesh being the scope `mesh`; `closed` says the same in words, None where it is open."""

    name: str
    weight: float | None
    tier: str | None
    waiting: int
    running: int
    gates: list[dict[str, Any]] = field(default_factory=list)
    closed: str | None = None


@dataclass(frozen=True, slots=True)
class Rates:
    """How many tasks ended a minute: in the last whole minute, and on average in the last five."""

    done: int = 0
    failed: int = 0
    done_in_5: float = 0.0
    failed_in_5: float = 0.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The mesh at one moment."""

    nodes: list[NodeView]
    queues: list[QueueView]
    #: Journal entries, see store/journal, longest first; `ran_s` until now, `preempted` how often it was before.
    running: list[dict[str, Any]]
    #: What was counted since the mesh began: `swaps_saved`, model swaps that affinity avoided (SPEC P7); `preempted`,
    #: jobs that made room for more urgent ones (R3).
    stats: dict[str, int]
    #: When it was read, s since the epoch by Redis's clock.
    at: float = 0.0
    #: Addresses that are watched though no worker serves them, by name.
    endpoints: dict[str, HealthView] = field(default_factory=dict)
    #: Those that stand, and those that ended within five minutes.
    alerts: list[AlertView] = field(default_factory=list)
    rates: Rates = field(default_factory=Rates)

    @property
    def online(self) -> list[NodeView]:
        """Nodes that were heard of lately."""
        return [node for node in self.nodes if node.status == ONLINE]

    @property
    def applications(self) -> list[dict[str, Any]]:
        """What runs, without the mesh's own."""
        return [entry for entry in self.running if not str(entry["name"]).startswith(OWN_TASKS)]

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return asdict(self)


def read(settings: Settings) -> Snapshot:
    """The mesh as Redis has it now. Raises BrokerUnavailable."""
    with connect(settings) as client:
        return read_from(client, settings)


def read_from(client: Any, settings: Settings) -> Snapshot:
    """The mesh as Redis has it now, through a connection that is kept. Raises BrokerUnavailable."""
    with mapped_errors(settings):
        entries = nodes.all_nodes(client)
        names = known_queues(settings)
        waiting = queues.depths(client, names)
        held_off = cordons.cordoned(client)
        counted = {**stats.read(client), "preempted": sum(preemption.counts(client).values())}
        closures = gates.read_closures(client, settings)
        at = server.now(client)
        checked = health_views(client)
        told = recent(client, at)
        rates = _rates(client)
        running = _with_times(client, still_running(client, settings, entries), at)
    by_worker = {str(worker): str(entry["id"]) for entry in running for worker in (entry["worker"], *entry["siblings"])}
    counts = Counter(str(entry["queue"]) for entry in running)
    known = {queue.name: queue for queue in QUEUES}
    return Snapshot(
        nodes=[_node(entry, settings.node_ttl_s, by_worker, held_off, checked) for entry in entries],
        queues=[
            QueueView(
                name=name,
                weight=known[name].weight if name in known else None,
                tier=known[name].tier.value if name in known else None,
                waiting=waiting[name],
                running=counts[name],
                gates=closures.told(name),
                closed=closures.said(name),
            )
            for name in names
        ],
        running=running,
        stats=counted,
        at=at,
        endpoints={name.removeprefix(ENDPOINTS): one for name, one in checked.items() if name.startswith(ENDPOINTS)},
        alerts=told,
        rates=rates,
    )


def _rates(client: Any) -> Rates:
    """Of tasks that ended; cancelled ones are neither done nor failed."""
    minutes = [counts.outcomes() for counts in counters.by_minute(client, MINUTES)]
    failed = [sum(found.get(outcome, 0) for outcome in FAILURES) for found in minutes]
    done = [found.get(Outcome.SUCCESS, 0) for found in minutes]
    return Rates(done[-1], failed[-1], sum(done) / MINUTES, sum(failed) / MINUTES)


def _with_times(client: Any, running: list[dict[str, Any]], now: float) -> list[dict[str, Any]]:
    times = preemption.times(client, [str(entry["tag"]) for entry in running])
    return [
        {**entry, "ran_s": max(0.0, now - entry["started_at"]), "preempted": times.get(str(entry["tag"]), 0)}
        for entry in running
    ]


def _node(
    entry: nodes.NodeEntry,
    ttl_s: float,
    by_worker: dict[str, str],
    held_off: dict[str, str],
    checked: dict[str, HealthView],
) -> NodeView:
    node = entry.node
    return NodeView(
        name=node.name,
        role=node.role,
        host=node.host,
        version=node.version,
        status=ONLINE if entry.online(ttl_s) else OFFLINE,
        silent_s=round(entry.silent_s, 1),
        labels=dict(node.labels),
        gpu_count=sum(device.kind not in (DeviceKind.CPU, DeviceKind.APPLE) for device in node.devices),
        memory_gb=sum(device.memory_gb for device in node.devices),
        condition=checked.get(subject(NODE, node.name)),
        devices=[
            DeviceView(
                worker=device.worker,
                gpu_type=device.gpu_type,
                memory_gb=device.memory_gb,
                power=device.power,
                cost_per_hour=device.cost_per_hour,
                running=by_worker.get(device.worker),
                condition=checked.get(subject(DEVICE, device.worker)),
                cordoned="; ".join(held_off[one] for one in (node.name, device.worker) if one in held_off) or None,
            )
            for device in node.devices
        ],
    )
