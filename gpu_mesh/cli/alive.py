"""`gpu-mesh alive`: do this node's processes answer? For the health checks of containers and service managers."""

from __future__ import annotations

import click

from gpu_mesh.celery import app
from gpu_mesh.cli import EXIT_FAILED
from gpu_mesh.cli.output import console
from gpu_mesh.settings import Settings, settings
from gpu_mesh.store import nodes
from gpu_mesh.store.client import check_broker, connect, mapped_errors

__all__ = ["alive", "expected"]

PARTS = ("devices", "control", "beat")
#: How long an answer is waited for, s: a worker's parent answers also while its job runs.
ANSWER_S = 5.0


@click.command()
@click.argument("part", type=click.Choice(PARTS), default=PARTS[0])
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0.1, 600), default=ANSWER_S, show_default=True, help="Of all, s."
)
def alive(part: str, timeout_s: float) -> None:
    """Whether a part of this node answers: its `devices`' workers, a lead's `control` worker and CPU queues' worker,
    or its `beat`. For health checks. Exit code 1 when one does not answer."""
    current = settings()
    check_broker(current, timeout_s=timeout_s)
    names = expected(current, part)
    # The inspect command of Celery is content with one answer; this wants all.
    replies = app.control.ping(destination=names, timeout=timeout_s, limit=len(names)) if names else []
    silent = sorted(set(names) - {name for reply in replies for name in reply})
    if not names:
        click.echo(f"node {current.node_name} is not in the mesh: `gpu-mesh worker` registers it", err=True)
    elif silent:
        click.echo(f"no answer within {timeout_s:g} s from {', '.join(silent)}", err=True)
    else:
        console.print(", ".join(names))
    if silent or not names:
        raise click.exceptions.Exit(EXIT_FAILED)


def expected(current: Settings, part: str) -> list[str]:
    """The names of the processes that a part of this node consists of; none where the node is not online.

    Raises BrokerUnavailable.
    """
    if part == "beat":
        return [f"beat@{current.node_name}"]
    if part == "control":
        return [f"{name}@{current.node_name}" for name in (("control", "cpu") if current.cpu_queues else ("control",))]
    with mapped_errors(current), connect(current) as client:
        entries = nodes.all_nodes(client)
    own = [entry for entry in entries if entry.node.name == current.node_name and entry.online(current.node_ttl_s)]
    return [device.worker for entry in own for device in entry.node.devices]
