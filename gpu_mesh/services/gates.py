"""Pausing and resuming queues by hand, and saying why one is closed."""

from __future__ import annotations

import getpass
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, tzinfo
from typing import Any

from gpu_mesh.domain.availability import REALTIME_QUEUE
from gpu_mesh.domain.device import Device
from gpu_mesh.domain.holds import HELD_QUEUE
from gpu_mesh.domain.moments import parse_until, shown
from gpu_mesh.domain.queues import GPU_QUEUES
from gpu_mesh.errors import InvalidValue, UnknownQueue
from gpu_mesh.services import windows
from gpu_mesh.settings import Settings
from gpu_mesh.store import availability, gates, holds, nodes, server
from gpu_mesh.store import windows as store
from gpu_mesh.store.client import connect, mapped_errors
from gpu_mesh.store.gates import Gate

__all__ = [
    "HEALTH",
    "MANUAL",
    "REALTIME",
    "USAGE",
    "WHOLE_MESH",
    "Changed",
    "Closures",
    "pause",
    "read_closures",
    "resume",
    "whoami",
]

#: The reason of a pause by hand.
MANUAL = "manual"
#: The reason of a queue that waits for realtime jobs: no gate in the store, but what follows from the claims.
REALTIME = "realtime"
#: The reason of a device whose engine does not answer.
HEALTH = "health"
#: The reason of internal work in hours of high usage.
USAGE = "usage"
#: Reasons whose end is put off while they hold: it tells nobody anything.
RENEWED = (HEALTH, USAGE)
#: The reason of realtime work that nobody can do now: no gate in the store either, see services/availability.
UNAVAILABLE = "unavailable"
#: Scopes, and jobs of one, that words name; the others are counted.
NAMED = 3
#: What people call the scope of every device.
WHOLE_MESH = "mesh"


@dataclass(frozen=True, slots=True)
class Closures:
    """Why queues are closed: gates whose end has not come, at `now` (s since the epoch), with the mesh's time zone."""

    gates: list[Gate]
    now: float
    zone: tzinfo

    def of(self, queue: str) -> list[Gate]:
        """A queue's gates, those of the whole mesh first."""
        return sorted((gate for gate in self.gates if gate.queue == queue), key=lambda gate: gate.scope != gates.MESH)

    def words(self, gate: Gate) -> str:
        """`window until 18:00`, `paused by ann since 14:02 (disk full)`, the scope where it is not the whole mesh."""
        parts = ["paused" if gate.reason == MANUAL else gate.reason]
        if gate.scope != gates.MESH:
            parts.append(f"on {gate.scope}")
        if gate.by and gate.reason != windows.REASON:
            parts.append(f"by {_named(gate.by) if gate.reason == REALTIME else gate.by}")
        if gate.since and gate.reason != windows.REASON:
            parts.append(f"since {self.time(gate.since)}")
        if gate.until is not None and gate.reason not in RENEWED:
            parts.append(f"until {self.time(gate.until)}")
        return " ".join(parts) + (f" ({gate.why})" if gate.why else "")

    def why(self, queue: str, fleet: Iterable[Device] | None = None) -> str | None:
        """Why a task of the queue waits, or None where it is open: to the mesh, and with `fleet` to one of these."""
        found = self.of(queue)
        told = [gate for gate in found if gate.scope == gates.MESH]
        if not told and fleet is not None and found:
            scopes = {gate.scope for gate in found}
            if all({device.node, device.worker} & scopes for device in fleet):
                told = found
        return f"{queue}: {self._listed(told)}" if told else None

    def said(self, queue: str) -> str | None:
        """All that keeps the queue closed somewhere, in words; None where it is open."""
        return self._listed(self.of(queue)) or None

    def _listed(self, found: list[Gate]) -> str:
        passing = [gate for gate in found if gate.reason == REALTIME]
        told = [gate for gate in found if gate not in passing[NAMED:]]
        more = [f"realtime on {len(passing) - NAMED} more"] if len(passing) > NAMED else []
        return ", ".join([*map(self.words, told), *more])

    def told(self, queue: str) -> list[dict[str, Any]]:
        """A queue's gates as JSON-ready data."""
        return [
            {**asdict(gate), "scope": WHOLE_MESH if gate.scope == gates.MESH else gate.scope} for gate in self.of(queue)
        ]

    def clock_time(self, stamp: float) -> str:
        """`18:00`, whatever the day."""
        return f"{datetime.fromtimestamp(stamp, self.zone):%H:%M}"

    def time(self, stamp: float) -> str:
        """A time as people of the mesh's zone read it."""
        return shown(stamp, self.now, self.zone)


@dataclass(frozen=True, slots=True)
class Changed:
    """What a pause or a resume met. `was` is false for a pause of what was open, a resume of what was not paused."""

    queue: str
    scope: str
    was: bool
    until: float | None
    #: What keeps the queue closed, after it.
    closures: Closures
    #: The name of the time zone.
    zone: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        told = {"queue": self.queue, "scope": self.scope, "was_paused": self.was, "until": self.until}
        return {**told, "gates": self.closures.told(self.queue)}


def whoami(settings: Settings) -> str:
    """Who pauses, where nobody is named: this user, on this node."""
    try:
        return f"{getpass.getuser()}@{settings.node_name}"
    except (OSError, KeyError):  # a container's user without a name
        return settings.node_name


def read_closures(client: Any, settings: Settings, *, passing: bool = True) -> Closures:
    """Why queues are closed now; without `passing` what realtime jobs hold back is left out, which costs less."""
    told, _ = store.read(client)
    now = server.now(client)
    held = [gate for gate in gates.all_gates(client) if gate.until is None or gate.until > now]
    if passing:
        held += [_of_hold(hold) for hold in holds.holds(client)]
        if (out := availability.outage(client)) is not None:
            held.append(Gate(REALTIME_QUEUE, UNAVAILABLE, since=out.since, why=out.why))
    return Closures(held, now, windows.zone_of((told or windows.own_plan(settings)).zone))


def _of_hold(hold: holds.Hold) -> Gate:
    return Gate(HELD_QUEUE, REALTIME, hold.scope, hold.since, by=", ".join(hold.tasks))


def _named(tasks: str) -> str:
    """The first of several task ids, and how many more there are."""
    first, *others = tasks.split(", ")
    return f"{first} and {len(others)} more" if others else first


def pause(
    settings: Settings,
    queue: str,
    *,
    scope: str = WHOLE_MESH,
    until: str | None = None,
    why: str = "",
    by: str | None = None,
) -> Changed:
    """Close a queue by hand in a scope: `mesh`, a node or a worker; to the mesh, also where it was opened by hand.

    `until` as in domain/moments. It is kept in Redis. Raises UnknownQueue, InvalidValue, BrokerUnavailable.
    """
    _check_queue(queue)
    with mapped_errors(settings), connect(settings) as client:
        name = _scope(client, scope)
        closures = read_closures(client, settings)
        end = None if until is None else parse_until(until, closures.now, closures.zone)
        if name == gates.MESH:
            store.keep_closed(client, queue)
        new = gates.close(client, queue, MANUAL, scope=name, by=by or whoami(settings), until=end, why=_line(why))
        return _changed(client, settings, queue, scope, not new, end)


def resume(
    settings: Settings, queue: str, *, scope: str = WHOLE_MESH, until: str | None = None, by: str | None = None
) -> Changed:
    """End a pause by hand in a scope; with `until`, also open the queue in its peak hours until then.

    Raises UnknownQueue, InvalidValue, BrokerUnavailable.
    """
    _check_queue(queue)
    if until is not None and (queue not in windows.WINDOWED or scope not in (WHOLE_MESH, gates.MESH)):
        raise InvalidValue("--until", until, f"only peak hours are opened for a time: of {windows.WINDOWED[0]}, in all")
    with mapped_errors(settings), connect(settings) as client:
        name = _scope(client, scope)
        end = None
        if until is not None:
            closures = read_closures(client, settings)
            end = parse_until(until, closures.now, closures.zone)
            store.open_until(client, queue, store.Opened(end, by or whoami(settings)))
        was = gates.reopen(client, queue, MANUAL, scope=name)
        windows.reconcile(client, settings)
        return _changed(client, settings, queue, scope, was, end)


def _changed(client: Any, settings: Settings, queue: str, scope: str, was: bool, until: float | None) -> Changed:
    told, _ = store.read(client)
    zone = (told or windows.own_plan(settings)).zone
    return Changed(queue, scope, was, until, read_closures(client, settings), zone)


def _check_queue(queue: str) -> None:
    if queue not in GPU_QUEUES:
        raise UnknownQueue(
            "queue", queue, f"one of {', '.join(GPU_QUEUES)}; a queue that needs no GPU is not paused: stop its worker"
        )


def _scope(client: Any, scope: str) -> str:
    if scope in (WHOLE_MESH, gates.MESH):
        return gates.MESH
    known = _names(entry.node for entry in nodes.all_nodes(client))
    if scope not in known:
        raise InvalidValue("--scope", scope, f"mesh, a node or a worker: {', '.join(known) or 'none is known yet'}")
    return scope


def _names(found: Iterable[Any]) -> Collection[str]:
    return [name for node in found for name in (node.name, *(device.worker for device in node.devices))]


def _line(why: str) -> str:
    """In one line, for tables and logs."""
    return " ".join(why.split())
