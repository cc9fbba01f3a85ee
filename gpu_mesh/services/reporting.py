"""What the mesh says of itself in the log: statistics every five minutes, one line every minute (SPEC H8)."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable

from gpu_mesh.domain.health import State
from gpu_mesh.services import snapshot
from gpu_mesh.services.snapshot import Snapshot
from gpu_mesh.services.stats import report
from gpu_mesh.services.stats_views import Report, Times
from gpu_mesh.settings import Settings
from gpu_mesh.store import stats
from gpu_mesh.store.client import connect, mapped_errors

__all__ = ["LINE_EVERY_S", "STATS_EVERY_S", "line", "lines", "report_line", "report_stats"]

logger = logging.getLogger(__name__)

#: How often, s (SPEC H8).
STATS_EVERY_S, LINE_EVERY_S = 300.0, 60.0
#: States that the line does not name.
FINE = (State.HEALTHY.value, State.UNKNOWN.value)
#: Alerts that the line quotes; the others are counted.
QUOTED = 3


def report_stats(settings: Settings) -> Report:
    """Make a report of the last STATS_EVERY_S, say it in the log and keep it. Raises BrokerUnavailable."""
    made = report(settings, STATS_EVERY_S, whole_minutes=True)
    for said in lines(made):
        logger.info("%s", said, extra={"action": "stats"})
    with mapped_errors(settings), connect(settings) as client:
        stats.keep_report(client, json.dumps(made.to_dict()))
    return made


def report_line(settings: Settings) -> None:
    """Say the mesh in one line. Raises BrokerUnavailable."""
    logger.info("%s", line(snapshot.read(settings)), extra={"action": "line"})


def line(seen: Snapshot) -> str:
    """The mesh in one line, with the alerts of the last five minutes."""
    devices = [device for node in seen.online for device in node.devices]
    conditions = [node.condition for node in seen.online] + [device.condition for device in devices]
    states = Counter(one.state for one in conditions if one is not None and one.state not in FINE)
    away = len(seen.nodes) - len(seen.online)
    ill = ", ".join([f"{count} {state}" for state, count in sorted(states.items())] + [f"{away} away"] * bool(away))
    said = (
        f"nodes {len(seen.online)}{f' ({ill})' if ill else ''} devices {len(devices)} "
        f"busy {sum(device.running is not None for device in devices)} "
        f"waiting {sum(queue.waiting for queue in seen.queues)} running {len(seen.applications)} "
        f"done/min {seen.rates.done} failed {seen.rates.failed} alerts {len(seen.alerts)}"
    )
    quoted = [
        f"{alert.level}{' (over)' if alert.over_at else ''} {alert.subject}: {alert.text}"
        for alert in seen.alerts[:QUOTED]
    ]
    more = [f"and {len(seen.alerts) - QUOTED} more"] if len(seen.alerts) > QUOTED else []
    return f"{said}: {'; '.join(quoted + more)}" if quoted else said


def lines(made: Report) -> Iterable[str]:
    """The report in a few lines: the mesh, each queue, each node."""
    yield (
        f"last {made.span_s / 60:.0f} min: {_outcomes(made.outcomes)}; failed {_percent(made.failure_share)}, "
        f"busy {_percent(made.busy_share)}, model swaps {made.swaps}, cost {made.cost:.4f}"
    )
    for queue in made.queues:
        yield (
            f"queue {queue.queue}: {_outcomes(queue.outcomes)}; waited {_times(queue.waited)}, ran {_times(queue.ran)}"
        )
    for node in made.nodes:
        its = node.condition
        ms = None if its is None else its.response_ms
        yield (
            f"node {node.node}: {'online' if node.online else 'offline'}, {'unknown' if its is None else its.state}, "
            f"score {'-' if its is None or its.score is None else f'{its.score:.0f}'}, "
            f"answers in {'-' if ms is None else f'{ms:.0f} ms'}, busy {_percent(node.busy_share)}, "
            f"{_outcomes(node.outcomes)}, failed {_percent(node.failure_share)}"
        )


def _outcomes(outcomes: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in outcomes.items()) or "nothing ended"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _times(times: Times) -> str:
    return " ".join(f"{name} {_seconds(value)}" for name, value in (("p50", times.p50), ("p95", times.p95)))


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{1000 * value:.3g} ms" if value < 1 else f"{value:.3g} s"
