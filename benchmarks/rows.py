"""Rows of the result, what they must hold, and the tables they are shown in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypedDict

__all__ = ["GOALS", "Bound", "Goal", "Row", "Rows", "markdown", "row", "text", "verdict"]

COLUMNS = ("name", "value", "unit", "stock", "ratio", "must", "held", "aim", "reached")


class Row(TypedDict):
    """One figure; `baseline` is stock Celery's in the same run and `ratio` ours to its, None where stock cannot."""

    value: float
    unit: str
    baseline: float | None
    ratio: float | None


Rows = dict[str, Row]


def row(value: float, unit: str, baseline: float | None = None) -> Row:
    """A row; no ratio to a baseline of 0."""
    return {"value": value, "unit": unit, "baseline": baseline, "ratio": value / baseline if baseline else None}


@dataclass(frozen=True, slots=True)
class Bound:
    """What a row's value, or its ratio, is held to: at most `limit`, or at least it.

    A limit that names another row stands for that row's value times `times`.
    """

    limit: float | str
    ratio: bool = False
    least: bool = False
    times: float = 1.0

    def __str__(self) -> str:
        what = "ratio " if self.ratio else ""
        sign = "≥" if self.least else "≤"
        if isinstance(self.limit, str):
            return f"{what}{sign} {'' if self.times == 1 else f'{self.times:g} × '}{self.limit}"
        return f"{what}{sign} {self.limit:g}"

    def held(self, name: str, rows: Mapping[str, Row]) -> bool | None:
        """Whether the row holds it; None where it cannot be told."""
        found = rows[name]["ratio" if self.ratio else "value"]
        if isinstance(self.limit, str):
            limit = rows[self.limit]["value"] * self.times if self.limit in rows else None
        else:
            limit = self.limit
        if found is None or limit is None:
            return None
        return found >= limit if self.least else found <= limit


@dataclass(frozen=True, slots=True)
class Goal:
    """What must hold, and what we aim for."""

    must: Bound
    aim: Bound


def _value(must: float, aim: float) -> Goal:
    return Goal(Bound(must), Bound(aim))


def _ratio(must: float, aim: float, *, least: bool = False) -> Goal:
    return Goal(Bound(must, ratio=True, least=least), Bound(aim, ratio=True, least=least))


#: What was ordered of each row; a row that is not here only informs.
GOALS: Mapping[str, Goal] = {
    "idle_dispatch_p50": _ratio(1.2, 0.8),
    "idle_dispatch_p99": _ratio(1.2, 0.8),
    "noop_throughput": _ratio(1.0, 1.3, least=True),
    "publish_cost": _ratio(1.5, 1.1),
    "claim_us_10": _value(150, 60),
    "claim_us_10000": _value(150, 60),
    "claim_us_100000": _value(150, 60),
    "claim_us_misfits_10000": _value(150, 60),
    "publish_us_idle_1000": _value(1000, 200),
    "failover_worker_s": _value(12, 5),
    "failover_supervised_s": _value(2, 0.5),
    "failover_child_s": _value(2, 0.5),
    "storm_kills": Goal(Bound(50, least=True), Bound(500, least=True)),
    "storm_lost": _value(0, 0),
    "storm_duplicates": Goal(Bound("storm_kills"), Bound("storm_kills")),
    "redis_restart_s": _value(3, 0.5),
    "model_swaps": Goal(Bound(0.3, ratio=True), Bound("model_swaps_optimum", times=1.05)),
    "fleet_dispatch_p99_ms": _value(100, 10),
    "realtime_wait_p99_s": _value(0.3, 0.15),
    "realtime_wait_3_p99_s": _value(0.3, 0.15),
    "realtime_wait_restart_p99_s": _value(0.5, 0.2),
    "realtime_wait_unpreemptible_p99_s": Goal(Bound("unpreemptible_batch_s"), Bound("unpreemptible_batch_s")),
    "batch_work_lost_pct": _value(2, 0.5),
    "resume_to_claim_s": _value(0.5, 0.05),
    "gate_races": _value(0, 0),
    "idle_cpu_control_plane_pct": _value(1, 0.5),
    "fleet10_dispatch_p99_ms": _value(100, 10),
    "rest_submit_p99_ms": _value(100, 25),
    "rest_lost": _value(0, 0),
    "rest_refused": _value(0, 0),
    "s1_selection_p99_ms": _value(10, 5),
    "s1_dispatch_p99_ms": _value(50, 15),
    "s1_overhead_p99_ms": _value(100, 30),
}


def verdict(held: bool | None) -> str:
    """A bound's outcome in a table."""
    return "-" if held is None else "yes" if held else "NO"


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value == int(value) else f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


def _cells(rows: Mapping[str, Row]) -> Iterable[tuple[str, ...]]:
    for name, found in rows.items():
        start = (name, _figure(found["value"]), found["unit"], _figure(found["baseline"]), _figure(found["ratio"]))
        goal = GOALS.get(name)
        if goal is None:
            yield (*start, "", "", "", "")
            continue
        met = [verdict(bound.held(name, rows)) for bound in (goal.must, goal.aim)]
        yield (*start, str(goal.must), met[0], str(goal.aim), met[1])


def text(rows: Mapping[str, Row]) -> str:
    """A table for a terminal."""
    lines = [COLUMNS, *_cells(rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(f"{cell:{'>' if i in (1, 3, 4) else '<'}{widths[i]}}" for i, cell in enumerate(line)).rstrip()
        for line in lines
    )


def markdown(rows: Mapping[str, Row]) -> str:
    """A table for a document."""
    lines = [COLUMNS, ("---", "---:", "---", "---:", "---:", "---", "---", "---", "---"), *_cells(rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
