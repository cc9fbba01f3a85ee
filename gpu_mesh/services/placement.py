"""Whether a task may run here, and whether it may run anywhere (SPEC P2, N1)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.domain.footprints import Footprints, as_seen
from gpu_mesh.domain.requirements import Fit, Requirements, fits
from gpu_mesh.engines.naming import canonical
from gpu_mesh.services import footprints
from gpu_mesh.settings import Settings, settings
from gpu_mesh.store import health, held, nodes
from gpu_mesh.store.client import connect, mapped_errors

__all__ = ["cpu_counts", "fitting", "held_back", "online_devices", "own_device", "siblings", "suits", "unschedulable"]


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


def suits(settings: Settings, needs: Requirements, device: Device) -> bool:
    """Whether `device` fits, its node has as many GPUs as needed, and a CPU stands for a GPU only where it may."""
    fleet: list[Device] = []
    if needs.gpu_count > 1 or (needs.gpu_count and not device.is_gpu and settings.cpu_counts == "auto"):
        fleet = online_devices(settings)
    return bool(_fits_among(settings, needs, device, fleet, _known(settings, needs)))


def fitting(settings: Settings, needs: Requirements) -> list[Device]:
    """Every device online that fits."""
    fleet, known = online_devices(settings), _known(settings, needs)
    return [device for device in fleet if _fits_among(settings, needs, device, fleet, known)]


def siblings(settings: Settings, needs: Requirements, device: Device) -> list[str]:
    """Workers of the other devices of the node that could serve a job together with `device`."""
    alone = _of_several(needs)
    return [
        other.worker
        for other in online_devices(settings)
        if other.node == device.node and other.worker != device.worker and other.is_gpu and fits(alone, other)
    ]


def unschedulable(settings: Settings, needs: Requirements, fleet: Sequence[Device]) -> str | None:
    """Why no device of `fleet` fits, whoever holds its memory now: every one's reason, each once. None where one
    does."""
    return _unfit(settings, needs, [replace(device, held_gb=0.0) for device in fleet])


def held_back(settings: Settings, needs: Requirements, fleet: Sequence[Device]) -> str | None:
    """Why no device of `fleet` fits now, though one will when strangers leave its memory; None where one fits."""
    return _unfit(settings, needs, fleet) if any(device.held_gb for device in fleet) else None


def _unfit(settings: Settings, needs: Requirements, fleet: Sequence[Device]) -> str | None:
    reasons, known = [], _known(settings, needs)
    for device in fleet:
        fit = _fits_among(settings, needs, device, fleet, known)
        if fit:
            return None
        reasons.append(str(fit.reason))
    return "; ".join(dict.fromkeys(reasons)) or "no device is online"


def online_devices(settings: Settings) -> list[Device]:
    """Every device of the nodes heard of lately, with what strangers hold of it. Raises BrokerUnavailable."""
    with mapped_errors(settings), connect(settings) as client:
        entries = nodes.all_nodes(client)
        found = [device for entry in entries if entry.online(settings.node_ttl_s) for device in entry.node.devices]
        watched = [device.worker for device in found if device.kind is DeviceKind.NVIDIA]
        taken = held.read(client, watched) if watched else {}
    return [replace(device, held_gb=taken.get(device.worker, 0.0)) for device in found]


def _of_several(needs: Requirements) -> Requirements:
    """What a job of several GPUs needs of each: an engine's address is no sibling."""
    return replace(needs, gpu_count=1, device=None, remote=False)


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a task's model."""

    #: What it was seen to take.
    seen: Footprints = field(default_factory=dict)
    #: Workers whose engines have it, by their last check.
    holders: frozenset[str] = frozenset()


def _known(settings: Settings, needs: Requirements) -> _Known:
    """Of the model, where that can matter to such a task."""
    if not needs.remote or needs.model is None:
        return _Known()
    return _Known(footprints.known(settings), frozenset() if settings.engine_pull else _holders(settings, needs.model))


def _holders(settings: Settings, model: str) -> frozenset[str]:
    """Those that have it; not who is gone: nobody waits for a machine that may not come back."""
    online = {device.worker for device in online_devices(settings)}
    with mapped_errors(settings), connect(settings) as client:
        checked = [one for one in health.all_checked(client).values() if one.kind == health.DEVICE]
    return frozenset(
        one.name for one in checked if one.name in online and canonical(model) in map(canonical, one.models)
    )


def _fits_among(settings: Settings, needs: Requirements, device: Device, fleet: Sequence[Device], known: _Known) -> Fit:
    model = None if needs.model is None else canonical(needs.model)
    fit = fits(as_seen(needs, device, known.seen, model), device, cpu_counts=cpu_counts(settings, [*fleet, device]))
    # Where nobody has it, whoever takes the task says so, and what there is.
    if fit and known.holders and device.worker not in known.holders:
        return Fit(f"{device.worker} has no model {model!r}; {min(known.holders)} has")
    if not fit or needs.gpu_count < 2:
        return fit
    alone = _of_several(needs)
    found = sum(other.node == device.node and other.is_gpu and bool(fits(alone, other)) for other in fleet)
    if found < needs.gpu_count:
        return Fit(f"needs {needs.gpu_count} such GPUs of one node; {device.node} has {found}")
    return fit
