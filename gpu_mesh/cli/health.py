"""`gpu-mesh health`: how nodes, devices and watched addresses are, and what to do about it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

import click

from gpu_mesh.cli import EXIT_FAILED
from gpu_mesh.cli.output import ago, console, json_option, print_json, table
from gpu_mesh.errors import InvalidValue
from gpu_mesh.services.health import read
from gpu_mesh.services.recovery import attempts
from gpu_mesh.settings import settings
from gpu_mesh.store.health import DEVICE, Checked

__all__ = ["health"]

#: Attempts to restart an engine that are shown.
ATTEMPTS = 10


@click.command()
@click.argument("name", required=False)
@click.option("--check", is_flag=True, help="Exit with 1 where anybody is unhealthy or offline: for a monitor.")
@json_option
def health(name: str | None, check: bool, as_json: bool) -> None:
    """How nodes, devices and watched addresses are, by the last check; with NAME all that is known of that one."""
    now, found = read(settings())
    if name is not None:
        found = [one for one in found if one.name == name] or _unknown(name, found)
    if as_json:
        print_json([one.to_dict() for one in found])
    else:
        _show(found, now)
        if name is not None:
            _show_one(found[0], now)
    if check and any(not one.health.is_claimable for one in found):
        raise click.exceptions.Exit(EXIT_FAILED)


def _unknown(name: str, found: Iterable[Checked]) -> list[Checked]:
    known = sorted({one.name for one in found})
    raise InvalidValue("NAME", name, f"somebody who was checked: {', '.join(known) or 'nobody yet'}")


def _show(found: list[Checked], now: float) -> None:
    table(
        "",
        ("kind", "name", "state", "since", "strikes>", "passed %>", "uptime>", "answers in ms>", "checked"),
        (
            (
                one.kind,
                one.name,
                f"{one.health.state} (flaps)" if one.health.flapping else one.health.state.value,
                ago(now - one.health.since),
                one.health.strikes,
                None if one.health.success_rate is None else f"{one.health.success_rate:.1f}",
                f"{one.health.score:.1f}",
                None if one.response_ms is None else f"{one.response_ms:g}",
                ago(now - one.health.checked_at),
            )
            for one in found
        ),
        empty="nobody was checked yet; beat has it done every GPU_MESH_HEALTH_EVERY_S seconds",
    )
    for one in found:
        for finding in one.health.findings:
            console.print(f"{one.name}: {finding.text}", markup=False, soft_wrap=True)
            if finding.remedy:
                console.print(f"  to do: {finding.remedy}", markup=False, soft_wrap=True)


def _show_one(one: Checked, now: float) -> None:
    console.print(f"{one.name}: {one.health.checks} checks, {one.health.failed} failed", markup=False)
    if one.models:
        console.print(f"models: {', '.join(one.models)}", markup=False, soft_wrap=True)
    if one.kind != DEVICE:
        return
    table(
        "attempts to restart its engine",
        ("ended", "attempt>", "outcome", "why", "command"),
        (
            (
                ago(None if repair.ended_at is None else now - repair.ended_at),
                repair.order.attempt,
                repair.outcome,
                repair.why,
                shlex.join(repair.command),
            )
            for repair in attempts(settings(), one.name)[:ATTEMPTS]
        ),
        empty="no attempt to restart its engine",
    )
