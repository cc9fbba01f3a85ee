"""Commands that look: nodes, queues, status, config."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from gpu_mesh.cli.output import ago, console, json_option, print_json, table
from gpu_mesh.services import snapshot
from gpu_mesh.services.settings_table import rows
from gpu_mesh.settings import settings

__all__ = ["completion", "config", "nodes", "queues", "status"]


@click.command()
@json_option
def nodes(as_json: bool) -> None:
    """Nodes and their devices."""
    seen = snapshot.read(settings())
    if as_json:
        print_json(seen.to_dict()["nodes"])
        return
    table(
        "",
        ("node", "status", "role", "device", "type", "GB>", "power>", "cost/h>", "labels", "runs", "takes no work"),
        (
            (
                node.name,
                node.status if node.status == snapshot.ONLINE else f"{node.status} ({ago(node.silent_s)})",
                node.role,
                device.worker.partition("@")[0],
                device.gpu_type,
                f"{device.memory_gb:g}",
                f"{device.power:g}",
                f"{device.cost_per_hour:.2f}",
                ",".join(f"{name}={value}" for name, value in node.labels.items()),
                device.running or "idle" if node.status == snapshot.ONLINE else None,
                device.cordoned,
            )
            for node in seen.nodes
            for device in node.devices
        ),
        empty="no nodes yet; start one with `gpu-mesh up` or `gpu-mesh worker`",
    )


@click.command()
@json_option
def queues(as_json: bool) -> None:
    """Queues: weight, how many wait, how many run; why one is closed, since when, by whom and until when."""
    seen = snapshot.read(settings())
    if as_json:
        print_json(seen.to_dict()["queues"])
        return
    table(
        "",
        ("queue", "weight>", "tier", "waiting>", "running>", "closed"),
        ((q.name, q.weight, q.tier or "cpu", q.waiting, q.running, q.closed) for q in seen.queues),
        empty="no queues",
    )


@click.command()
@json_option
def status(as_json: bool) -> None:
    """The mesh in one glance."""
    seen = snapshot.read(settings())
    if as_json:
        print_json(seen.to_dict())
        return
    online = [node for node in seen.nodes if node.status == snapshot.ONLINE]
    devices = [device for node in online for device in node.devices]
    busy = sum(device.running is not None for device in devices)
    waiting = sum(queue.waiting for queue in seen.queues)
    console.print(f"nodes     {len(online)} online, {len(seen.nodes) - len(online)} offline")
    console.print(f"devices   {len(devices)}, {busy} busy, {sum(d.memory_gb for d in devices):g} GB in all")
    console.print(f"tasks     {waiting} waiting, {len(seen.running)} running")
    console.print(f"preempted {seen.stats['preempted']} times")
    console.print(f"models    {seen.stats['swaps_saved']} swaps saved")


@click.command()
@json_option
def config(as_json: bool) -> None:
    """Every setting with value, source and unit; secrets masked."""
    found = rows(settings())
    if as_json:
        print_json([{"name": row.name, "value": row.value, "source": row.source, "unit": row.unit} for row in found])
        return
    table("", ("setting", "value", "unit", "source"), ((r.name, r.value, r.unit, r.source) for r in found), empty="")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print shell completion: eval "$(gpu-mesh completion bash)"."""
    from gpu_mesh.cli.root import root

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(root, {}, "gpu-mesh", "_GPU_MESH_COMPLETE").source())
