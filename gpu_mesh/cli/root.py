"""The command group."""

from __future__ import annotations

import click

from gpu_mesh import __version__
from gpu_mesh.cli import (
    alerts,
    alive,
    api,
    care,
    dead,
    demo,
    doctor,
    drains,
    gates,
    health,
    logs,
    run,
    show,
    stats,
    submit,
    tasks,
    token,
    top,
)

__all__ = ["root"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="gpu-mesh")
def root() -> None:
    """A Celery task queue that gives each GPU the right job at the right moment.

    \b
    Exit codes: 0 done, 1 the task or the check failed, 2 wrong usage or a value refused, 3 the broker is
    away or refuses us, 4 waited too long, 78 a setting is refused, 130 interrupted.
    """


for command in (
    run.up,
    run.worker,
    run.control,
    run.beat,
    api.api,
    alive.alive,
    submit.submit,
    submit.wait,
    logs.recorded(submit.cancel),
    tasks.tasks,
    logs.recorded(dead.dead),
    logs.recorded(care.purge),
    logs.recorded(care.move),
    logs.recorded(gates.pause),
    logs.recorded(gates.resume),
    gates.windows,
    logs.recorded(drains.drain),
    logs.recorded(drains.undrain),
    logs.recorded(alerts.alerts),
    logs.recorded(token.token),
    show.nodes,
    show.queues,
    show.status,
    stats.stats,
    top.top,
    health.health,
    show.config,
    logs.logs,
    logs.recorded(doctor.doctor, "mend"),
    demo.demo,
    show.completion,
):
    root.add_command(command)
