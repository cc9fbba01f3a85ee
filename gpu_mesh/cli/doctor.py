"""`gpu-mesh doctor`: what is missing here, and how to mend it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

import click

from gpu_mesh.cli import EXIT_FAILED
from gpu_mesh.cli.output import console, json_option, print_json
from gpu_mesh.devices import detect
from gpu_mesh.engines import get_engine
from gpu_mesh.errors import BrokerUnavailable, MeshError
from gpu_mesh.services import snapshot
from gpu_mesh.settings import Settings, mask, settings
from gpu_mesh.store.client import broker_url, check_broker
from gpu_mesh.store.embedded import find_server

__all__ = ["Finding", "doctor", "examine"]

#: Free disk below which results and queues are at risk, GB.
LOW_DISK_GB = 1.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: `ok`, `note` (works, but know this) or `missing`, with what to do."""

    check: str
    level: str
    found: str
    remedy: str = ""


def examine(current: Settings) -> list[Finding]:
    """Run every check."""
    return [_guarded(name, check, current) for name, check in _CHECKS]


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """What is missing on this machine, and how to mend it. Exit code 1 when something is."""
    findings = examine(settings())
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        marks = {"ok": "[green]ok[/]     ", "note": "[yellow]note[/]   ", "missing": "[red]missing[/]"}
        for finding in findings:
            console.print(f"{marks[finding.level]} {finding.check:<8} ", end="")
            console.print(finding.found, markup=False, soft_wrap=True)
            if finding.remedy:
                console.print(f"{'':17}→ {finding.remedy}", markup=False, soft_wrap=True)
    if any(finding.level == "missing" for finding in findings):
        raise click.exceptions.Exit(EXIT_FAILED)


def _guarded(name: str, check: Callable[[Settings], Finding], current: Settings) -> Finding:
    try:
        return check(current)
    except (MeshError, OSError) as exc:
        return Finding(name, "missing", str(exc))


def _python(current: Settings) -> Finding:
    return Finding("python", "ok", sys.version.split()[0])


def _redis(current: Settings) -> Finding:
    if current.broker_url:
        return Finding("redis", "ok", "not needed here: GPU_MESH_BROKER_URL names one")
    server = find_server()
    return Finding("redis", "ok", f"{server.path} ({server.version_text})")


def _broker(current: Settings) -> Finding:
    shown = mask(broker_url(current))
    try:
        check_broker(current)
    except BrokerUnavailable as exc:
        level = "missing" if current.broker_url else "note"
        return Finding("broker", level, str(exc))
    return Finding("broker", "ok", f"{shown} answers")


def _devices(current: Settings) -> Finding:
    devices = detect(
        current.devices, node=current.node_name, gpu_enabled=current.gpu_enabled, margin_gb=current.memory_margin_gb
    )
    found = ", ".join(f"{device.name}: {device.gpu_type} {device.memory_gb:g} GB" for device in devices)
    if any(device.is_gpu for device in devices):
        return Finding("devices", "ok", found)
    remedy = "for an NVIDIA card install its driver; `nvidia-smi` must list it"
    if shutil.which("nvidia-smi"):
        remedy = "nvidia-smi is installed, but NVML shows no card: see what `nvidia-smi` says"
    return Finding("devices", "note", f"{found}; no GPU", remedy)


def _engine(current: Settings) -> Finding:
    status = get_engine("local").check()
    if not status.reachable:
        return Finding("engine", "missing", status.error or "the in-process engine does not work")
    names = ", ".join(model.name for model in status.models)
    return Finding("engine", "ok", f"in-process, embeds with {names}")


def _state(current: Settings) -> Finding:
    folder = current.state_dir
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        return Finding("state", "missing", f"{folder} cannot be written", "set GPU_MESH_STATE_DIR to a folder of yours")
    free_gb = shutil.disk_usage(existing).free / 2**30
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


_CHECKS: tuple[tuple[str, Callable[[Settings], Finding]], ...] = (
    ("python", _python),
    ("redis", _redis),
    ("broker", _broker),
    ("state", _state),
    ("devices", _devices),
    ("engine", _engine),
    ("nodes", _nodes),
)
