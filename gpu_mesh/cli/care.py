"""`gpu-mesh purge` and `gpu-mesh move`: what waits in a queue, dropped or moved, after a look and a yes."""

from __future__ import annotations

import click

from gpu_mesh.celery import app
from gpu_mesh.cli import EXIT_FAILED
from gpu_mesh.cli.output import confirm, json_option, print_json, progress, yes_option
from gpu_mesh.services import queue_care
from gpu_mesh.services.queue_care import Counts
from gpu_mesh.settings import settings

__all__ = ["move", "purge"]


@click.command()
@click.argument("queue")
@yes_option
@json_option
def purge(queue: str, yes: bool, as_json: bool) -> None:
    """Drop all that waits in QUEUE, what is delayed too. Its tasks end as REVOKED; what runs goes on.

    One that was interrupted is ended by the next, of whatever queue.
    """
    current = settings()
    found = queue_care.count(current, queue)
    queue_care.end_interrupted(app, current)
    if _nothing(queue, found, as_json, "purged"):
        return
    _ask(f"{queue}: {_said(found)}. Drop for good?", yes)
    with progress() as bar:
        shown = bar.add_task("purge", total=found.waiting + found.delayed)
        done = queue_care.purge(app, current, queue, lambda count: bar.update(shown, completed=count))
    _tell(queue, done, as_json, "purged")


@click.command()
@click.argument("queue")
@click.argument("to")
@click.option("--limit", type=click.IntRange(1), help="At most this many, the most urgent and oldest first.")
@yes_option
@json_option
def move(queue: str, to: str, limit: int | None, yes: bool, as_json: bool) -> None:
    """Move what waits in QUEUE to the queue TO: order, priority and age are kept, what is delayed stays delayed.

    Tasks keep their needs; a worker of a CPU queue does not look at them. What is malformed stays where it is.
    """
    current = settings()
    queue_care.check_move(current, queue, to)
    found = queue_care.count(current, queue)
    if _nothing(queue, found, as_json, "moved"):
        return
    most = found.waiting + found.delayed if limit is None else min(limit, found.waiting + found.delayed)
    _ask(f"{queue}: {_said(found)}. Move {most} to {to}?", yes)
    with progress() as bar:
        shown = bar.add_task("move", total=most)
        done = queue_care.move(current, queue, to, limit, lambda count: bar.update(shown, completed=count))
    _tell(queue, done, as_json, "moved")


def _said(found: Counts) -> str:
    return f"{found.waiting} waiting, {found.delayed} delayed"


def _ask(question: str, yes: bool) -> None:
    if not yes and not confirm(question):
        click.echo("nothing was changed", err=True)
        raise click.exceptions.Exit(EXIT_FAILED)


def _nothing(queue: str, found: Counts, as_json: bool, word: str) -> bool:
    if found.waiting or found.delayed:
        return False
    if as_json:
        _tell(queue, 0, as_json, word)
    else:
        click.echo(f"{queue}: nothing waits")
    return True


def _tell(queue: str, count: int, as_json: bool, word: str) -> None:
    if as_json:
        print_json({"queue": queue, word: count})
    else:
        click.echo(f"{queue}: {count} {word}")
