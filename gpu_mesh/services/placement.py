"""Whether a task may run here, and whether it may run anywhere (SPEC P2, N1)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache

from gpu_mesh.domain.device import Device
from gpu_mesh.domain.requirements import Fit, Requirements, fits
from gpu_mesh.errors import Unschedulable
from gpu_mesh.settings import Settings, settings
from gpu_mesh.store import nodes
from gpu_mesh.store.client import connect

__all__ = ["cpu_counts", "fits_anywhere", "fits_here", "own_device"]


@cache
def own_device() -> Device | None:
    """The device this worker serves, as `gpu-mesh worker` told it; None elsewhere."""
    described = settings().worker_device
    return Device.from_dict(json.loads(described)) if described else None


def cpu_counts(settings: Settings, devices: Iterable[Device]) -> bool:
    """Whether a CPU may run what needs a GPU: the operator says so, or `devices` has no GPU (SPEC N1)."""
    if settings.cpu_counts == "auto":
        return not any(device.is_gpu for device in devices)
    return settings.cpu_counts == "yes"


def fits_anywhere(needs: Requirements, devices: Iterable[Device], *, cpu_counts: bool) -> Fit:
    """Whether any device fits; else the reasons, each once."""
    reasons = []
    for device in devices:
        fit = fits(needs, device, cpu_counts=cpu_counts)
        if fit:
            return fit
        reasons.append(str(fit.reason))
    return Fit("; ".join(dict.fromkeys(reasons)) or "the mesh has no device")


def fits_here(needs: Requirements, device: Device) -> bool:
    """Whether `device` may run it. False when another one must.

    Raises Unschedulable, with every device's reason, when none of those online can.
    """
    current = settings()
    if fits(needs, device, cpu_counts=current.cpu_counts == "yes"):
        return True
    with connect(current) as client:
        entries = nodes.all_nodes(client)
    devices = [known for entry in entries if entry.online(current.node_ttl_s) for known in entry.node.devices]
    counts = cpu_counts(current, [*devices, device])
    if fits(needs, device, cpu_counts=counts):
        return True
    fit = fits_anywhere(needs, devices, cpu_counts=counts)
    if not fit:
        raise Unschedulable(f"no device can run this task: {fit.reason}")
    return False
