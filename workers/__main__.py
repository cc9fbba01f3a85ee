"""`python -P -m workers …`: the `celery -A gpu_mesh …` of a supervised process, of its commands `worker`, `beat`
and `flower`.

Celery's own entry point imports all commands there are, Flower and a shell among them: a fifth of a process's start.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import click
from celery.bin.base import CLIContext
from celery.bin.beat import beat
from celery.bin.worker import worker
from celery.platforms import SecurityWarning

# Loaded before the application's folder is looked in: a module of hers may have the name of one of ours.
import beat_schedule  # noqa: F401
import workers.hooks  # noqa: F401
from gpu_mesh.celery import app

# Celery warns each process of root's rights because a pickle could abuse them; only JSON is accepted here.
warnings.filterwarnings("ignore", category=SecurityWarning)


class Commands(click.Group):
    """Those of Celery that the mesh runs. Flower is loaded only by itself."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """As click has it."""
        if cmd_name == "flower":
            from flower.command import flower

            found: click.Command = flower
            return found
        return super().get_command(ctx, cmd_name)


@click.group(cls=Commands, commands=[worker, beat])
@click.option("--quiet", is_flag=True, help="No banner.")
@click.pass_context
def celery(context: click.Context, quiet: bool) -> None:
    """Run a process of the mesh."""
    context.obj = CLIContext(app=app, no_color=False, workdir=None, quiet=quiet)


if __name__ == "__main__":
    # With -P Python leaves it out; an application's modules lie there.
    sys.path.insert(0, str(Path.cwd()))
    celery(sys.argv[1:], standalone_mode=False)
