"""What `gpu-mesh doctor` says of resident models: whether they are there, and whether they leave room (SPEC P6)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gpu_mesh.cli.findings import ENGINE, Finding
from gpu_mesh.domain.device import Device
from gpu_mesh.engines.base import Model
from gpu_mesh.services.loading import over_budget, residents
from gpu_mesh.settings import Settings, env_name

__all__ = ["resident_findings"]

RESIDENT = env_name("resident_models")


def resident_findings(served: Iterable[tuple[Device, Sequence[Model]]], settings: Settings) -> list[Finding]:
    """What is wrong with them, device by device; `served`: each device with the models of its engine."""
    names = residents(settings)
    found = []
    for device, models in served:
        found += _of_device(device, [known for known in models if known.name in names], names)
    return found


def _of_device(device: Device, there: Sequence[Model], names: frozenset[str]) -> list[Finding]:
    found = []
    if missing := sorted(names - {known.name for known in there}):
        told = f"{device.name}: its engine lacks {', '.join(missing)}, named in {RESIDENT}"
        found.append(Finding(ENGINE, "note", told, f"`ollama pull {missing[0]}`, or correct the name"))
    total = over_budget(there, [device])
    if total is not None:
        told = (
            f"{device.name}: the resident {', '.join(known.name for known in there)} take {total:.1f} GB, "
            f"more than its {device.budget_gb:.1f} GB; no other model has room"
        )
        found.append(Finding(ENGINE, "note", told, f"name fewer or smaller ones in {RESIDENT}"))
    return found
