"""`gpu-mesh tasks`: what waits, runs and ended, and everything about one."""

from __future__ import annotations

import json
from datetime import datetime

import click
from celery import states

from gpu_mesh.celery import app
from gpu_mesh.cli import EXIT_FAILED
from gpu_mesh.cli.output import ago, json_option, print_json, table, task_id_argument
from gpu_mesh.domain.queues import OWN_TASKS
from gpu_mesh.errors import InvalidTask
from gpu_mesh.services import lookup, tracking
from gpu_mesh.services.task_state import TaskState
from gpu_mesh.settings import settings

__all__ = ["tasks"]

#: How much is shown of a result or an error, characters.
SHOWN = 2000


@click.group(invoke_without_command=True)
@click.option("--waiting", "which", flag_value="waiting", help="Only those that wait.")
@click.option("--running", "which", flag_value="running", help="Only those that run.")
@click.option("--finished", "which", flag_value="finished", help="Those that ended lately.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="At most this many.")
@json_option
@click.pass_context
def tasks(context: click.Context, which: str | None, limit: int, as_json: bool) -> None:
    """Tasks that wait and run, or that ended lately; `tasks show ID`: everything known of one.

    `pos` is a task's place among the waiting of its queue, in the order in which they would be claimed. The mesh's own
    periodic work is left out.
    """
    if context.invoked_subcommand is not None:
        return
    current = settings()
    found: list[lookup.TaskView] = []
    if which == "finished":
        found = lookup.finished_tasks(current, limit)
    if which in (None, "running"):
        found += lookup.running_tasks(current)
    if which in (None, "waiting") and len(found) < limit:
        found += lookup.waiting_tasks(current, limit=limit - len(found))
    found = [task for task in found if not task.name.startswith(OWN_TASKS)]
    if as_json:
        print_json([task.to_dict() for task in found[:limit]])
        return
    table(
        "",
        ("id", "task", "queue", "prio>", "state", "pos>", "waited>", "ran>", "worker, or why it waits"),
        (
            (t.id, t.name, t.queue, t.priority, t.state, t.position, ago(t.waited_s), ago(t.ran_s), t.worker or t.why)
            for t in found[:limit]
        ),
        empty="no tasks " + ("ended lately" if which == "finished" else which or "waiting or running"),
    )


@tasks.command()
@task_id_argument
@json_option
def show(task_id: str, as_json: bool) -> None:
    """Everything known of one task: state, place in its queue, worker, times, result or error."""
    try:
        found = tracking.find(app, settings(), task_id)
    except InvalidTask as exc:
        click.echo(f"error: {exc}", err=True)
        raise click.exceptions.Exit(EXIT_FAILED) from None
    if as_json:
        print_json(found.to_dict() | {"result": _result(found), "error": _error(found)})
        return
    for name, value in _lines(found):
        if value not in (None, ""):
            click.echo(f"{name:<11} {value}")


def _lines(found: TaskState) -> list[tuple[str, object]]:
    return [
        ("id", found.id),
        ("task", found.name),
        ("state", f"{found.state}, cancelled" if found.cancelled and found.state != states.REVOKED else found.state),
        ("queue", found.queue),
        ("priority", found.priority),
        ("needs", json.dumps(found.needs) if found.needs else None),
        ("position", found.position),
        ("why", found.why),
        ("worker", found.worker),
        ("standby", found.standby),
        ("deliveries", found.deliveries),
        ("retries", found.retries),
        ("sent", _time(found.sent_at)),
        ("started", _time(found.started_at)),
        ("waited", None if found.waited_s is None else ago(found.waited_s)),
        ("ran", None if found.ran_s is None else ago(found.ran_s)),
        ("result", _result(found)),
        ("error", _error(found)),
    ]


def _result(found: TaskState) -> str | None:
    return _short(json.dumps(found.result, default=str)) if found.state == states.SUCCESS else None


def _error(found: TaskState) -> str | None:
    return None if found.error is None else _short(": ".join(found.error))


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text)} characters)"


def _time(stamp: float | None) -> str | None:
    if stamp is None:
        return None
    try:
        return f"{datetime.fromtimestamp(stamp):%Y-%m-%d %H:%M:%S}"
    except (TypeError, ValueError, OverflowError, OSError):  # as its sender wrote it
        return str(stamp)
