"""`gpu-mesh stats`: what ended lately, how long it waited and ran, and what it cost."""

from __future__ import annotations

from collections.abc import Iterable

import click

from gpu_mesh.cli.output import console, json_option, print_json, table
from gpu_mesh.domain.stats import Outcome
from gpu_mesh.services.health_views import HealthView
from gpu_mesh.services.stats import report
from gpu_mesh.services.stats_views import DeviceReport, NodeReport, Report, Times, parse_span
from gpu_mesh.settings import settings

__all__ = ["stats"]

#: Width from which a terminal shows every column, characters.
WIDE = 100
#: Runs that did not come to their own end.
_CUT_SHORT = (Outcome.RETRY, Outcome.IGNORED, Outcome.PREEMPTED, Outcome.HANDED_BACK, Outcome.LOST)


@click.command()
@click.option("--last", default="1h", show_default=True, metavar="SPAN", help="How far back: 10min, 1h, 24h.")
@click.option("--node", metavar="NODE", help="Only this node.")
@click.option("--model", metavar="MODEL", help="Only this model.")
@json_option
def stats(last: str, node: str | None, model: str | None, as_json: bool) -> None:
    """What ended lately: by queue, node, device and model; waits, run times, failures, model swaps, cost.

    Runs that were preempted, lost with their worker, or are tried again count as `again`: their tasks go on.
    """
    made = report(settings(), parse_span(last, "--last")).only(node, model, "--node")
    if as_json:
        print_json(made.to_dict())
        return
    _print(made, node, model)


def _print(made: Report, node: str | None, model: str | None) -> None:
    if model is None and node is None:
        _print_mesh(made)
    if model is None:
        _print_nodes(made)
    _print_models(made)


def _print_mesh(made: Report) -> None:
    ended = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in made.outcomes.items())
    console.print(f"last      {made.span_s / 60:.0f} min, {made.per_minute:.1f} tasks a minute")
    console.print(f"ended     {ended or 'nothing'}")
    console.print(f"failed    {_percent(made.failure_share)}   busy {_percent(made.busy_share)}   cost {made.cost:.4f}")
    console.print(f"models    {made.swaps} swaps; {made.swaps_saved} saved since the mesh began")
    console.print()
    table(
        "",
        ("queue", "done>", "failed>", "cancelled>", "again>", "waited p50/95/99>", "ran p50/95/99>"),
        ((one.queue, *_counts(one.outcomes), _quantiles(one.waited), _quantiles(one.ran)) for one in made.queues),
        empty="no task ended",
    )
    console.print()


def _print_nodes(made: Report) -> None:
    table(
        "",
        ("node", "state", "ok>", "score>", "ms>", "done>", "failed>", "again>", "swaps>", "busy>", "cost>"),
        (row for node in made.nodes for row in _node_rows(node)),
        empty="no node yet",
    )
    console.print()


def _node_rows(node: NodeReport) -> Iterable[tuple[object, ...]]:
    """The node's line, then one for each of its workers."""
    rows: list[tuple[str, NodeReport | DeviceReport]] = [(node.node, node)]
    for name, its in (*rows, *((f"  {one.worker.partition('@')[0]}", one) for one in node.devices)):
        done, failed, _, again = _counts(its.outcomes)
        offline = its is node and not node.online
        yield (
            name,
            "offline" if offline else its.condition and its.condition.state,
            _rate(its.condition),
            None if its.condition is None or its.condition.score is None else f"{its.condition.score:.0f}",
            None if its.condition is None or its.condition.response_ms is None else f"{its.condition.response_ms:.0f}",
            done,
            failed,
            again,
            its.swaps,
            None if its.busy_share is None else _percent(its.busy_share),
            None if its.cost is None else f"{its.cost:.4f}",
        )


def _rate(condition: HealthView | None) -> str | None:
    return None if condition is None or condition.success_rate is None else f"{condition.success_rate:.0f} %"


def _print_models(made: Report) -> None:
    columns = ("model", "worker", "done>", "failed>", "ran mean>", "ran p50/95/99>", "cost/task>", "type")
    rows = (
        (
            one.model,
            one.worker,
            *_counts(one.outcomes)[:2],
            _time(one.ran.mean),
            _quantiles(one.ran),
            None if one.cost_per_task is None else f"{one.cost_per_task:.6f}",
            one.gpu_type,
        )
        for one in made.models
    )
    shown = len(columns) if console.width >= WIDE else -1
    table("", columns[:shown], (row[:shown] for row in rows), empty="no run of a model ended")


def _counts(outcomes: dict[str, int]) -> tuple[int, int, int, int]:
    """Done, failed, cancelled; and runs whose task goes on."""
    return (
        outcomes.get(Outcome.SUCCESS, 0),
        outcomes.get(Outcome.FAILURE, 0) + outcomes.get(Outcome.DEAD, 0),
        outcomes.get(Outcome.REVOKED, 0),
        sum(outcomes.get(one, 0) for one in _CUT_SHORT),
    )


def _quantiles(times: Times) -> str | None:
    """`3ms/0.5s/4m`."""
    return None if times.p50 is None else "/".join(str(_time(one)) for one in (times.p50, times.p95, times.p99))


def _time(value: float | None) -> str | None:
    """`3ms`, `0.5s`, `4m`: short, for tables."""
    if value is None:
        return None
    if value < 0.1:
        return f"{1000 * value:.1f}ms" if value < 0.01 else f"{1000 * value:.0f}ms"
    if value < 120:
        return f"{value:.1f}s" if value < 10 else f"{value:.0f}s"
    return f"{value / 60:.0f}m" if value < 7200 else f"{value / 3600:.1f}h"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"
