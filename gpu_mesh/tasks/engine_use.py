"""The engine that does a job's work, and the model it does it with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from gpu_mesh.devices.detection import detect
from gpu_mesh.domain.device import Device
from gpu_mesh.engines import Engine, engine_for
from gpu_mesh.engines.base import Kind, no_such_model
from gpu_mesh.engines.options import check_name
from gpu_mesh.services.footprints import note
from gpu_mesh.services.loading import make_room
from gpu_mesh.settings import Settings, settings
from gpu_mesh.tasks.base import GpuTask

__all__ = ["EngineUse", "engine_of"]


@dataclass(frozen=True, slots=True)
class EngineUse:
    """What a job works with."""

    #: Of its worker; outside a device's worker, this machine's CPU.
    device: Device
    engine: Engine
    #: By its name, also where the caller named none.
    model: str

    def note_footprint(self) -> None:
        """After the work: what the model takes is known to later claims."""
        note(self.device, self.engine, self.model, settings())


def engine_of(task: GpuTask, kind: Kind, model: str | None = None) -> EngineUse:
    """The engine of the task's device that does this kind of work, with `model`, that of the requirements, or its own.

    On a device's worker there is room for the model then (SPEC P7): see `make_room`, which may raise EngineOutOfMemory.
    Raises EngineUnavailable where there is none or it does not answer, ModelNotFound where it has no such model at
    all; one that is named is looked for when it is used. Raises InvalidTask for what is no name.
    """
    check_name(model)
    current = settings()
    device = task.device or _this_machine()
    wanted = model or task.requirements.model or _default(current, kind)
    engine = engine_for(device, current, kind=kind, model=wanted)
    name = wanted or _first(engine, kind)
    if task.device is not None:
        make_room(task.device, engine, name, kind, siblings=task.devices[1:])
    return EngineUse(device, engine, name)


@cache
def _this_machine() -> Device:
    """For a job that runs where no device is served: in the caller, or on a worker of CPU queues."""
    return detect("cpu", node=settings().node_name)[0]


def _default(current: Settings, kind: Kind) -> str | None:
    return {Kind.EMBED: current.embed_model, Kind.GENERATE: current.chat_model}[kind]


def _first(engine: Engine, kind: Kind) -> str:
    """The first of its models that can do the work; to generate, best one that is loaded already."""
    present = engine.models()
    able = [known for known in present if kind in known.kinds]
    if kind is Kind.GENERATE:
        able.sort(key=lambda known: not known.loaded)
    if not able:
        names = [known.name for known in present]
        raise no_such_model(None, names, engine.name, f"None of them can {kind}: give it one that can")
    return able[0].name
