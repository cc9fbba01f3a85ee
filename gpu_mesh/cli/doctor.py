"""`gpu-mesh doctor`: what is missing here, and how to mend it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TypeAlias

import click

from gpu_mesh.celery import app
from gpu_mesh.cli import EXIT_FAILED
from gpu_mesh.cli.engine_findings import engine_findings
from gpu_mesh.cli.findings import ENGINE, Finding
from gpu_mesh.cli.output import ago, confirm, console, json_option, print_json, yes_option
from gpu_mesh.devices import detect
from gpu_mesh.domain.device import GB, Device
from gpu_mesh.errors import BrokerUnavailable, MeshError
from gpu_mesh.services import leftovers, snapshot
from gpu_mesh.settings import Settings, mask, settings
from gpu_mesh.store import server
from gpu_mesh.store.client import broker_url, connect, mapped_errors
from gpu_mesh.store.embedded import find_server
from gpu_mesh.store.redis_binary import MIN_VERSION

__all__ = ["doctor", "examine"]

#: A check, of one thing or of several.
Check: TypeAlias = Callable[[Settings], Finding | list[Finding]]
#: Free disk below which results and queues are at risk, GB.
LOW_DISK_GB = 1.0


def examine(current: Settings) -> list[Finding]:
    """Run every check."""
    findings: list[Finding] = []
    for name, check in _CHECKS:
        if name in _ASKING and any(found.check == "broker" and found.level == "missing" for found in findings):
            findings.append(Finding(name, "note", "not known without a broker"))
        else:
            findings += _guarded(name, check, current)
    return findings


@click.command()
@click.option("--mend", is_flag=True, help="Put back what stock Celery workers that are gone have left.")
@click.option("--all", "take_all", is_flag=True, help="With --mend: whatever its age, whoever holds it.")
@click.option(
    "--older-than",
    "older_than_s",
    type=click.FloatRange(min=0),
    default=leftovers.OLD_S,
    show_default=True,
    help="With --mend: only what was taken longer ago, s.",
)
@yes_option
@json_option
def doctor(mend: bool, take_all: bool, older_than_s: float, yes: bool, as_json: bool) -> None:
    """What is missing on this machine, and how to mend it. Exit code 1 when something is.

    --mend takes over what stock Celery workers took from the mesh's queues and never acknowledged: what was taken
    longer ago than stock Celery's visibility timeout, and what no worker that answers says it has. With --all
    everything: stop the stock workers first, or their tasks run twice.
    """
    findings = examine(settings())
    if not as_json:
        _print(findings)
    missing = any(finding.level == "missing" for finding in findings)
    mended = _mend(take_all, older_than_s, yes, quiet=as_json) if mend and not missing else None
    if as_json:
        listed = [asdict(finding) for finding in findings]
        print_json(listed if not mend else {"findings": listed, "put_back": mended})
    if missing:
        raise click.exceptions.Exit(EXIT_FAILED)


def _print(findings: list[Finding]) -> None:
    marks = {"ok": "[green]ok[/]     ", "note": "[yellow]note[/]   ", "missing": "[red]missing[/]"}
    for finding in findings:
        console.print(f"{marks[finding.level]} {finding.check:<9} ", end="")
        console.print(finding.found, markup=False, soft_wrap=True)
        if finding.remedy:
            console.print(f"{'':18}→ {finding.remedy}", markup=False, soft_wrap=True)


def _mend(take_all: bool, older_than_s: float, yes: bool, *, quiet: bool) -> int:
    """Put leftovers back, after a yes; how many."""
    found = leftovers.look(app, settings(), older_than_s=older_than_s, take_all=take_all)
    if not quiet:
        click.echo(f"messages of stock Celery workers: {found}")
    if not found.ready or not (yes or confirm(f"Put {len(found.ready)} back into their queues?")):
        return 0
    count = leftovers.put_back(settings(), found)
    if not quiet:
        click.echo(f"{count} put back")
    return count


def _guarded(name: str, check: Check, current: Settings) -> list[Finding]:
    try:
        found = check(current)
    except (MeshError, OSError) as exc:
        return [Finding(name, "missing", str(exc))]
    return found if isinstance(found, list) else [found]


def _python(current: Settings) -> Finding:
    return Finding("python", "ok", sys.version.split()[0])


def _redis(current: Settings) -> Finding:
    if current.broker_url:
        return Finding("redis", "ok", "not needed here: GPU_MESH_BROKER_URL names one")
    binary = find_server()
    return Finding("redis", "ok", f"{binary.path} ({binary.version_text})")


def _broker(current: Settings) -> Finding:
    shown = mask(broker_url(current))
    try:
        with mapped_errors(current), connect(current, retries=0) as client:
            version = server.version(client)
    except BrokerUnavailable as exc:
        level = "missing" if current.broker_url else "note"
        return Finding("broker", level, str(exc))
    if version is not None and server.is_too_old(version):
        least = ".".join(map(str, MIN_VERSION))
        remedy = f"upgrade that server to {least} or newer, or unset GPU_MESH_BROKER_URL and use `gpu-mesh up`"
        return Finding("broker", "missing", f"{shown} is Redis {version}; at least {least} is needed", remedy)
    return Finding("broker", "ok", f"{shown} answers" + (f", Redis {version}" if version else ""))


def _devices(current: Settings) -> Finding:
    devices = _detected(current)
    found = ", ".join(f"{device.name}: {device.gpu_type} {device.memory_gb:g} GB" for device in devices)
    if any(device.is_gpu for device in devices):
        return Finding("devices", "ok", found)
    remedy = "for an NVIDIA card install its driver; `nvidia-smi` must list it"
    if shutil.which("nvidia-smi"):
        remedy = "nvidia-smi is installed, but NVML shows no card: see what `nvidia-smi` says"
    return Finding("devices", "note", f"{found}; no GPU", remedy)


def _detected(current: Settings) -> tuple[Device, ...]:
    return detect(
        current.devices, node=current.node_name, gpu_enabled=current.gpu_enabled, margin_gb=current.memory_margin_gb
    )


def _engines(current: Settings) -> list[Finding]:
    return engine_findings(_detected(current), current)


def _state(current: Settings) -> Finding:
    folder = current.state_dir
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        return Finding("state", "missing", f"{folder} cannot be written", "set GPU_MESH_STATE_DIR to a folder of yours")
    free_gb = shutil.disk_usage(existing).free / GB
    if free_gb < LOW_DISK_GB:
        return Finding("state", "missing", f"{folder}: {free_gb:.1f} GB free", f"free at least {LOW_DISK_GB:g} GB")
    return Finding("state", "ok", f"{folder}, {free_gb:.0f} GB free")


def _nodes(current: Settings) -> Finding:
    try:
        seen = snapshot.read(current)
    except BrokerUnavailable:
        return Finding("nodes", "note", "not known while the broker does not answer")
    online = [node.name for node in seen.nodes if node.status == snapshot.ONLINE]
    if not online:
        return Finding("nodes", "note", "none online", "start one: `gpu-mesh up` or `gpu-mesh worker`")
    return Finding("nodes", "ok", f"online: {', '.join(online)}")


def _leftovers(current: Settings) -> Finding:
    try:
        count, oldest_s = leftovers.summary(current)
    except BrokerUnavailable:
        return Finding("leftovers", "note", "not known while the broker does not answer")
    if not count:
        return Finding("leftovers", "ok", "no message is held by stock Celery workers")
    age = "" if oldest_s is None else f", the oldest for {ago(oldest_s)}"
    remedy = "if their workers are gone: `gpu-mesh doctor --mend`"
    held = "1 message" if count == 1 else f"{count} messages"
    return Finding("leftovers", "note", f"{held} held by stock Celery workers{age}", remedy)


#: Checks that ask the broker, once it is known to answer.
_ASKING = frozenset({"nodes", "leftovers"})
_CHECKS: tuple[tuple[str, Check], ...] = (
    ("python", _python),
    ("redis", _redis),
    ("broker", _broker),
    ("state", _state),
    ("devices", _devices),
    (ENGINE, _engines),
    ("nodes", _nodes),
    ("leftovers", _leftovers),
)
