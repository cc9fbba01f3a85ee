"""`gpu-mesh dead`: messages that cannot be run."""

from __future__ import annotations

from datetime import datetime

import click

from gpu_mesh.cli.output import console, json_option, print_json, table, task_id_argument
from gpu_mesh.services import dead_letters
from gpu_mesh.settings import settings

__all__ = ["dead"]


@click.group()
def dead() -> None:
    """Messages that cannot be run: malformed, unknown, or delivered too often."""


@dead.command("list")
@json_option
def list_(as_json: bool) -> None:
    """All of them, newest first."""
    found = dead_letters.every(settings())
    if as_json:
        print_json([letter.to_dict() for letter in found])
        return
    table(
        "",
        ("id", "queue", "since", "deliveries>", "worker", "why"),
        (
            (
                letter.id,
                letter.queue,
                f"{datetime.fromtimestamp(letter.at):%Y-%m-%d %H:%M}",
                letter.deliveries,
                letter.worker,
                letter.why,
            )
            for letter in found
        ),
        empty="no dead letters",
    )


@dead.command()
@task_id_argument
def show(task_id: str) -> None:
    """Everything known of one, its envelope included."""
    for letter in dead_letters.find(settings(), task_id):
        print_json(letter.to_dict())


@dead.command()
@task_id_argument
def retry(task_id: str) -> None:
    """Put one back into its queue, or `all`."""
    console.print(f"{dead_letters.retry(settings(), task_id)} back in their queues")


@dead.command()
@task_id_argument
@click.confirmation_option(prompt="Drop for good?")
def drop(task_id: str) -> None:
    """Forget one, or `all`."""
    console.print(f"{dead_letters.drop(settings(), task_id)} dropped")
