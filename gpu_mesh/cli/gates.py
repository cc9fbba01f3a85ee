"""`gpu-mesh pause`, `resume` and `windows`: which queues are closed, by whom and until when."""

from __future__ import annotations

from datetime import datetime

import click

from gpu_mesh.cli.output import json_option, print_json
from gpu_mesh.domain.moments import shown
from gpu_mesh.domain.windows import Period
from gpu_mesh.services import gates
from gpu_mesh.services import windows as service
from gpu_mesh.services.windows import Today
from gpu_mesh.settings import settings

__all__ = ["pause", "resume", "windows"]

_scope_option = click.option(
    "--scope", default=gates.WHOLE_MESH, show_default=True, help="Where: mesh, a node, or a worker such as gpu0@node."
)
_by_option = click.option("--by", help="Who does it; default: you, on this machine.")


@click.command()
@click.argument("queue")
@_scope_option
@click.option("--until", help="Its end: 20:00, 2026-11-30 09:00, or a span such as 90m, 2h, 1d.")
@click.option("--why", default="", help="Shown to whoever asks why it is closed.")
@_by_option
@json_option
def pause(queue: str, scope: str, until: str | None, why: str, by: str | None, as_json: bool) -> None:
    """Hand out nothing of QUEUE until it is resumed, or until --until. What runs goes on.

    It is kept in Redis, over restarts. Clock times are of the mesh's time zone (`gpu-mesh windows`). Pausing again
    replaces end and words.
    """
    done = gates.pause(settings(), queue, scope=scope, until=until, why=why, by=by)
    if as_json:
        print_json(done.to_dict())
        return
    end = f"until {_end(done)}" if done.until is not None else "until it is resumed"
    click.echo(f"{queue}: {'was paused already, now' if done.was else 'paused'} {end}{_where(scope)}")


@click.command()
@click.argument("queue")
@_scope_option
@click.option("--until", help="Also open it in its peak hours until then: 20:00, or a span such as 2h.")
@_by_option
@json_option
def resume(queue: str, scope: str, until: str | None, by: str | None, as_json: bool) -> None:
    """End a pause of QUEUE. With --until, peak hours do not close it before then either."""
    done = gates.resume(settings(), queue, scope=scope, until=until, by=by)
    if as_json:
        print_json(done.to_dict())
        return
    told = "resumed" if done.was else "was not paused"
    if done.until is not None:
        told += f"; open until {_end(done)}, peak hours or not"
    click.echo(f"{queue}: {told}{_where(scope)}")
    for gate in done.closures.of(queue):
        hint = f"; `gpu-mesh resume {queue} --until 2h` opens it" if gate.reason == service.REASON else ""
        click.echo(f"{queue}: still closed: {done.closures.words(gate)}{hint}")


@click.command()
@json_option
def windows(as_json: bool) -> None:
    """Today's peak hours, in which ai-batch is paused, and the next change."""
    seen = service.today(settings())
    if as_json:
        print_json(seen.to_dict())
        return
    for name, value in _lines(seen):
        click.echo(f"{name:<11} {value}")


def _lines(seen: Today) -> list[tuple[str, str]]:
    zone = service.zone_of(seen.plan.zone)

    def time(stamp: float) -> str:
        return shown(stamp, seen.now, zone)

    def hours(period: Period) -> str:
        return f"{time(period.start)}-{time(period.end)}"

    closes = [queue for queue in service.WINDOWED if queue not in seen.opened]
    state = "off-peak" if not seen.phase.is_peak else f"peak hours: {', '.join(closes) or 'nothing'} is closed"
    change = "never"
    if seen.phase.until is not None:
        change = f"{time(seen.phase.until)}, {'off-peak' if seen.phase.is_peak else 'peak hours'}"
    lines = [
        ("peak hours", f"{seen.plan.hours}, as {seen.plan.by} has it"),
        ("time zone", seen.plan.zone),
        ("now", f"{datetime.fromtimestamp(seen.now, zone):%a %Y-%m-%d %H:%M}, {state}"),
        ("today", ", ".join(map(hours, seen.periods)) or "no peak hours"),
        ("next change", change),
    ]
    lines += [("by hand", f"{name} is open until {time(one.until)}, by {one.by}") for name, one in seen.opened.items()]
    if (own := seen.other) is not None:
        lines.append(("note", f"this machine's own setting is {own.hours} ({own.zone}): it does not hold"))
    return lines


def _end(done: gates.Changed) -> str:
    assert done.until is not None
    return f"{done.closures.time(done.until)} ({done.zone})"


def _where(scope: str) -> str:
    return "" if scope in (gates.WHOLE_MESH, "*") else f", on {scope}"
