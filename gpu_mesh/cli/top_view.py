"""One frame of `gpu-mesh top`, from a snapshot: what fits a terminal of that size, the most important of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from rich.console import Group
from rich.table import Table
from rich.text import Text

from gpu_mesh.cli.output import NOTHING, ago
from gpu_mesh.domain.alerts import Level
from gpu_mesh.domain.health import State
from gpu_mesh.domain.queues import GPU_QUEUES
from gpu_mesh.domain.untyped import number
from gpu_mesh.services import snapshot
from gpu_mesh.services.recent_alerts import AlertView
from gpu_mesh.services.snapshot import DeviceView, NodeView, QueueView, Snapshot

__all__ = ["frame"]

#: Lines that each section gets at least, its title included, before the others get more.
LEAST = 3
#: Width of a bar, characters, and the least width of a terminal for long ones.
BAR, LONG_BAR, WIDE = 8, 20, 120
FULL, EMPTY = "█", "░"
#: Share in use from which a figure is marked, and from which it is alarming.
MARKED, ALARMING = 0.75, 0.9
_COLOURS = {
    State.HEALTHY: "green",
    State.DEGRADED: "yellow",
    State.UNHEALTHY: "red",
    State.OFFLINE: "bold red",
    snapshot.ONLINE: "green",
    "INFO": "",
    "WARNING": "yellow",
    "ERROR": "red",
    "CRITICAL": "bold red",
}


@dataclass(slots=True)
class Section:
    """A table: its columns (`>` at the end: set right, `+`: takes what room is left), its rows, and how many of these
    are shown."""

    columns: Sequence[str]
    rows: list[Sequence[Text]]
    empty: str
    shown: int = field(default=0)

    @property
    def wanted(self) -> int:
        """Lines it would fill."""
        return 1 + max(1, len(self.rows))


def frame(seen: Snapshot, *, width: int, height: int | None = None, problem: str = "") -> Group:
    """The mesh as it was read; `height` None: all of it. `problem`: why it is not newer."""
    head = _head(seen, problem, width)
    sections = [_nodes(seen, width), _queues(seen), _running(seen), _alerts(seen)]
    used = sum(1 + len(one.plain) // max(1, width) for one in head)
    _fit(sections, None if height is None else height - used)
    return Group(*head, *(_drawn(section) for section in sections if section.shown >= 1))


def _fit(sections: Sequence[Section], height: int | None) -> None:
    """Give lines to sections: to each the least, then what is left in their order."""
    if height is None:
        for section in sections:
            section.shown = section.wanted
        return
    for section in sections:
        section.shown = min(section.wanted, LEAST)
    left = height - sum(section.shown for section in sections)
    while left < 0 and (shown := [section for section in reversed(sections) if section.shown]):
        shown[0].shown -= 1
        left += 1
    # Line by line, so that a long one leaves room to the others.
    while left > 0 and (short := [section for section in sections if section.shown < section.wanted]):
        for section in short[:left]:
            section.shown += 1
        left -= len(short[:left])


def _drawn(section: Section) -> Table:
    drawn = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold reverse", expand=True)
    for index, name in enumerate(section.columns):
        justify: Literal["left", "right"] = "right" if name.endswith(">") else "left"
        takes = name.endswith("+")
        drawn.add_column(
            name.rstrip(">+"),
            justify=justify,
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if takes else None,
            min_width=None if index or takes else 8,
        )
    lines = section.shown - 1
    hidden = len(section.rows) - lines
    rows = section.rows if hidden <= 0 else section.rows[: max(0, lines - 1)]
    for row in rows:
        drawn.add_row(*row)
    if not section.rows and lines:
        drawn.add_row(Text(section.empty, "dim"))
    elif hidden > 0 and lines:
        drawn.add_row(Text(f"… {len(section.rows) - len(rows)} more", "dim"))
    return drawn


def _head(seen: Snapshot, problem: str, width: int) -> list[Text]:
    online = seen.online
    devices = [device for node in online for device in node.devices]
    busy = sum(device.running is not None for device in devices)
    waiting = sum(queue.waiting for queue in seen.queues)
    ill = Counter(node.condition.state for node in online if node.condition and node.condition.state != State.HEALTHY)
    away = len(seen.nodes) - len(online)
    notes = [f"{count} {state}" for state, count in sorted(ill.items())] + ([f"{away} away"] if away else [])
    said = f" ({', '.join(notes)})" if notes else ""
    parts = [
        f"{datetime.fromtimestamp(seen.at):%H:%M:%S}",
        f"nodes {len(online)}{said}",
        f"devices {len(devices)} busy {busy}",
        f"waiting {waiting}",
        f"running {len(seen.applications)}",
        f"done/min {seen.rates.done}" + (f" (in 5 min {seen.rates.done_in_5:.1f})" if width >= WIDE else ""),
        f"failed {seen.rates.failed}",
    ]
    head = [Text("  ".join(parts), "bold")]
    return [*head, Text(_clean(problem), "bold red")] if problem else head


def _nodes(seen: Snapshot, width: int) -> Section:
    names = {str(entry["id"]): entry for entry in seen.running}
    rows: list[Sequence[Text]] = []
    for node in sorted(seen.nodes, key=_is_fine):
        rows.append(_node(node))
        rows += [_device(device, node, names, LONG_BAR if width >= WIDE else BAR) for device in node.devices]
    for name, its in seen.endpoints.items():
        rows.append((_text(name), _state(its.state), Text(), Text(), Text(), _ms(its.response_ms), _text(its.url)))
    columns = ("node, device", "state", "memory", "use>", "°C>", "ms>", "runs+")
    return Section(columns, rows, "no node yet")


def _is_fine(node: NodeView) -> bool:
    """Those that are not come first: they must be among those that are shown."""
    conditions = [node.condition, *(device.condition for device in node.devices)]
    states = {its.state for its in conditions if its is not None}
    return node.status == snapshot.ONLINE and states <= {State.HEALTHY, State.UNKNOWN}


def _node(node: NodeView) -> Sequence[Text]:
    # What was last read of who is away is not how it is.
    its = node.condition if node.status == snapshot.ONLINE else None
    vitals = its.node if its else None
    if node.status != snapshot.ONLINE:
        state = Text(f"away {ago(node.silent_s)}", "bold red")
    else:
        state = _state(its.state if its else snapshot.ONLINE)
    words = Text()
    if vitals is not None:
        for name, share in (("load", vitals.load), ("mem", vitals.memory), ("disk", vitals.disk)):
            words += Text(f"{name} ", "dim") + _share(share) + Text(" ")
    return (_text(node.name, "bold"), state, Text(), Text(), Text(), _ms(its.response_ms if its else None), words)


def _device(device: DeviceView, node: NodeView, names: dict[str, dict[str, object]], bar: int) -> Sequence[Text]:
    its = device.condition if node.status == snapshot.ONLINE else None
    vitals = its.device if its else None
    state = _state(its.state) if its else Text(NOTHING)
    total = (vitals.memory_total_gb if vitals else None) or device.memory_gb
    used = vitals.memory_used_gb if vitals else None
    heat = vitals.temperature_c if vitals else None
    if node.status != snapshot.ONLINE:
        does = Text(NOTHING)
    elif device.running is not None:
        entry = names.get(device.running, {})
        does = _text(f"{entry.get('name') or '?'} {ago(number(entry.get('ran_s')))}")
    else:
        does = _text(device.cordoned, "yellow") if device.cordoned else Text("idle", "dim")
    return (
        _text(f"  {device.worker.partition('@')[0]} {_short(device.gpu_type)}"),
        Text("cordoned", "yellow") if device.cordoned and node.status == snapshot.ONLINE else state,
        _memory(used, total, bar),
        _share(vitals.utilisation if vitals else None),
        Text(NOTHING if heat is None else f"{heat:.0f}"),
        _ms(its.response_ms if its else None),
        does,
    )


def _memory(used: float | None, total: float, bar: int) -> Text:
    if used is None:
        return Text(f"{'':{bar}} {NOTHING}/{total:.0f} GB", "dim")
    share = min(1.0, max(0.0, used / total)) if total > 0 else 0.0
    filled = round(share * bar)
    return Text(FULL * filled, _heat(share)) + Text(EMPTY * (bar - filled), "dim") + Text(f" {used:.0f}/{total:.0f} GB")


def _queues(seen: Snapshot) -> Section:
    def matters(queue: QueueView) -> bool:
        return queue.name in GPU_QUEUES or bool(queue.waiting or queue.running or queue.closed)

    rows: list[Sequence[Text]] = [
        (_text(queue.name), Text(str(queue.waiting)), Text(str(queue.running)), _text(queue.closed or "open"))
        for queue in sorted(filter(matters, seen.queues), key=lambda queue: (not queue.waiting, not queue.closed))
    ]
    return Section(("queue", "waiting>", "running>", "gates+"), rows, "no queues")


def _running(seen: Snapshot) -> Section:
    def cells(entry: dict[str, object]) -> Sequence[Text]:
        times = entry.get("preempted") or 0
        return (
            _text(str(entry.get("id") or "?")[:8]),
            _text(entry.get("queue")),
            _text(entry.get("worker")),
            Text(ago(number(entry.get("ran_s")))),
            Text(f"{times}×" if times else NOTHING),
            _text(entry.get("name")),
        )

    return Section(
        ("running", "queue", "worker", "for>", "preempted>", "task+"), list(map(cells, seen.applications)), "nothing"
    )


def _alerts(seen: Snapshot) -> Section:
    def cells(alert: AlertView) -> Sequence[Text]:
        over = alert.over_at is not None and alert.level != Level.INFO.name
        return (
            Text("over" if over else alert.level.lower(), "dim" if over else _COLOURS.get(alert.level, "")),
            Text(ago(max(0.0, seen.at - (alert.over_at if alert.over_at is not None else alert.since)))),
            _text(alert.subject),
            _text(alert.text),
        )

    return Section(("alert", "for>", "of", "what+"), list(map(cells, seen.alerts)), "none within five minutes")


def _text(value: object, style: str = "") -> Text:
    return Text(_clean(value), style) if value not in (None, "") else Text(NOTHING)


def _clean(value: object) -> str:
    """In one line, and nothing that a terminal would obey."""
    return "".join(char if char.isprintable() else " " for char in str(value))


def _state(state: str) -> Text:
    return Text(state, _COLOURS.get(state, ""))


def _share(value: float | None) -> Text:
    return Text(NOTHING) if value is None else Text(f"{100 * value:.0f}%", _heat(value))


def _heat(share: float) -> str:
    return "bold red" if share >= ALARMING else "yellow" if share >= MARKED else "green"


def _ms(value: float | None) -> Text:
    return Text(NOTHING if value is None else f"{value:.0f}")


def _short(gpu_type: str) -> str:
    """`RTX 4090` of `NVIDIA GeForce RTX 4090`."""
    return gpu_type.removeprefix("NVIDIA ").removeprefix("GeForce ")
