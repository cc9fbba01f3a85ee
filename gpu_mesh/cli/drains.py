"""`gpu-mesh drain` and `undrain`: nodes and devices that take no work for a while."""

from __future__ import annotations

import click

from gpu_mesh.cli.output import json_option, print_json
from gpu_mesh.services import drains
from gpu_mesh.settings import settings

__all__ = ["drain", "undrain"]


@click.command()
@click.argument("name")
@click.option("--until", help="Its end: 18:00, 2026-11-30 09:00, or a span such as 90m, 2h, 1d.")
@click.option("--why", default="", help="Shown to whoever asks why it takes no work.")
@click.option("--by", help="Who does it; default: you, on this machine.")
@click.option("--move", is_flag=True, help="What runs there is to go on elsewhere, at once.")
@click.option(
    "--grace", type=click.FloatRange(0, 86_400), help="With --move: seconds a job may take to save and yield."
)
@json_option
def drain(
    name: str, until: str | None, why: str, by: str | None, move: bool, grace: float | None, as_json: bool
) -> None:
    """Have NAME, a node or a device such as gpu0@office, take no work until it is undrained, or until --until.

    What runs there goes on to its end. With --move it is asked to yield, and interrupted after --grace seconds
    (default: GPU_MESH_STOP_TIMEOUT_S); it goes on elsewhere from its checkpoint. Clock times are of the mesh's time
    zone. Draining again replaces end and words.
    """
    if grace is not None and not move:
        raise click.UsageError("--grace is for --move: without it, what runs goes on to its end")
    current = settings()
    yield_s = None if not move else current.stop_timeout_s if grace is None else grace
    done = drains.drain(current, name, until=until, why=why, by=by, yield_s=yield_s)
    if as_json:
        print_json(done.to_dict())
        return
    told = "was drained already, now" if done.was else "is drained"
    click.echo(f"{name} {told} {f'until {done.end}' if done.end else f'until `gpu-mesh undrain {name}`'}")


@click.command()
@click.argument("name")
@json_option
def undrain(name: str, as_json: bool) -> None:
    """Have NAME, a node or a device such as gpu0@office, take work again."""
    done = drains.undrain(settings(), name)
    if as_json:
        print_json(done.to_dict())
        return
    click.echo(f"{name}: {'takes work again' if done.was else 'was not drained'}")
    if done.still:
        click.echo(f"{name}: still takes none: {done.still}")
