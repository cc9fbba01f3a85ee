"""Room for a model before it is loaded: one main model per device, and the resident ones beside it (SPEC P6, P7).

Whoever works with an engine calls `make_room` first, in the process that does the work. What is loaded is asked anew
each time: people outside the mesh use the engine too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace

from gpu_mesh.devices.apart import Look, readings
from gpu_mesh.devices.base import Reading
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.domain.footprints import Footprints
from gpu_mesh.engines.base import Ability, Engine, Kind, Model
from gpu_mesh.engines.naming import canonical
from gpu_mesh.errors import EngineOutOfMemory, ModelNotFound
from gpu_mesh.services import footprints
from gpu_mesh.settings import Settings, env_name, settings

__all__ = ["make_room", "over_budget", "residents"]

logger = logging.getLogger(__name__)

#: Between two looks whether memory is back, s; how long it is waited for, s; the share of it that is enough (SPEC P7).
LOOK_S, LIMIT_S, ENOUGH = 0.25, 5.0, 0.75
#: Added to a budget before it is called exceeded, GB: engines round.
ROUNDING_GB = 0.01
#: Whose own readings tell what a model took. In memory that is shared with programs, files that an engine maps are
#: nobody's; there, and where nobody can look, the engine's list decides.
READABLE = frozenset({DeviceKind.NVIDIA})


def make_room(
    device: Device | None,
    engine: Engine,
    model: str | None,
    kind: Kind,
    *,
    siblings: Sequence[Device] = (),
    current: Settings | None = None,
    look_at: Callable[[Device], AbstractContextManager[Look]] = readings,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    seen: Callable[[Settings], Footprints] = footprints.known,
) -> None:
    """See to it that `engine` can load `model` for this kind of work on `device`; loaded already: nothing happens.

    The other main models in its memory are unloaded, those of `GPU_MESH_RESIDENT_MODELS` stay. Then memory is waited
    for, 5 s at most: what is not back by then is logged, and the engine may say itself that it is short. Nothing to do
    for an engine that loads and unloads by itself, and for the one in this process. `siblings`: the other devices of a
    job of several. `model=None` means the one that the engine would take.

    Raises EngineOutOfMemory, before anything is unloaded, where model and residents exceed the device's budget; what
    the engine raises.
    """
    if engine.url is None or not {Ability.LOADED, Ability.UNLOAD} <= engine.abilities:
        return
    current = current or settings()
    name = _named(model, kind, current)
    loaded = engine.loaded()
    if name is not None and any(name == known.name for known in loaded):
        return
    present = {known.name: known for known in engine.models()}
    wanted = _wanted(name, kind, present, engine)
    if wanted is None or wanted.loaded:
        return
    stay = residents(current)
    devices = (device, *siblings) if device is not None else ()
    if device is not None:
        present = _as_seen(present, device, seen(current))
        wanted = present.get(wanted.name, wanted)
    _check_budget(wanted, [known for known in present.values() if known.name in stay], devices)
    leave = [known for known in loaded if known.name not in stay]
    if wanted.name in stay and over_budget([wanted, *loaded], devices) is None:
        leave = []
    with ExitStack() as stack:
        look = None
        if device is not None and device.kind in READABLE:
            look = stack.enter_context(look_at(device))
        if leave:
            _free(engine, leave, wanted, look, clock, sleep)
        if look is not None and device is not None:
            _warn_of_strangers(device, wanted, look())


def residents(current: Settings) -> frozenset[str]:
    """Names of the models that stay in memory."""
    return frozenset(canonical(name) for name in current.resident_models)


def over_budget(models: Sequence[Model], devices: Collection[Device]) -> float | None:
    """How many GB the models take together where that is more than the devices offer; None where it is not.

    A model that is not loaded counts with what it was seen to take on such a device, else with its size on disk, which
    is the least that it takes: its context is what the margin is for. One whose size is unknown counts nothing.
    """
    total = sum(known.size_gb or 0.0 for known in models)
    if not devices or total <= sum(device.budget_gb for device in devices) + ROUNDING_GB:
        return None
    return total


def _as_seen(present: Mapping[str, Model], device: Device, seen: Footprints) -> dict[str, Model]:
    """Models that are not loaded, with the memory that they were seen to take on such a device."""
    return {
        name: replace(model, size_gb=found.gb)
        if not model.loaded and (found := seen.get((device.gpu_type, name))) is not None
        else model
        for name, model in present.items()
    }


def _named(model: str | None, kind: Kind, current: Settings) -> str | None:
    default = current.embed_model if kind is Kind.EMBED else current.chat_model
    found = model or default
    return None if found is None else canonical(found)


def _wanted(name: str | None, kind: Kind, present: Mapping[str, Model], engine: Engine) -> Model | None:
    """The model that the work would load; None where the engine is left to say that it has none."""
    if name is None:
        able = [known for known in present.values() if kind in known.kinds]
        # As the engine chooses: to generate, what is loaded goes first.
        first = sorted(able, key=lambda known: kind is Kind.GENERATE and not known.loaded)
        return next(iter(first), None)
    if name in present:
        return present[name]
    return Model(name=name) if Ability.PULL in engine.abilities else None


def _check_budget(wanted: Model, resident: Sequence[Model], devices: Sequence[Device]) -> None:
    beside = [known for known in resident if known.name != wanted.name]
    total = over_budget([wanted, *beside], devices)
    if total is None or wanted.size_gb is None:
        return
    offered = sum(device.budget_gb for device in devices)
    margin = sum(device.margin_gb for device in devices)
    names = ", ".join(known.name for known in beside if known.size_gb)
    told = f"{wanted.name} takes {wanted.size_gb:.1f} GB"
    if names:
        told += f", {total:.1f} GB with the resident {names}"
    where = " and ".join(device.worker for device in devices)
    smaller = f", fewer models in {env_name('resident_models')}" if names else ""
    raise EngineOutOfMemory(
        f"{told}; {where} offers {offered:.1f} GB ({margin:g} GB margin taken off). Take a smaller model or "
        f"quantisation, a device with more memory (memory_gb={total:.0f}){smaller}, or a smaller "
        f"{env_name('memory_margin_gb')}"
    )


def _free(
    engine: Engine,
    leave: Sequence[Model],
    wanted: Model,
    look: Look | None,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> None:
    """Unload, and wait until enough of the memory is back."""
    before = look() if look is not None else None
    names = ", ".join(known.name for known in leave)
    logger.info("unloading %s for %s", names, wanted.name, extra={"action": "unload", "engine": engine.name})
    for known in leave:
        with suppress(ModelNotFound):  # removed meanwhile
            engine.unload(known.name)
    expected = sum(map(_taken, leave))
    end = clock() + LIMIT_S
    while (back := _back(before, look, leave, engine)) < expected * ENOUGH:
        if clock() >= end:
            logger.warning(
                "after %g s %.1f GB of %.1f GB that %s took are back; %s is loaded all the same",
                *(LIMIT_S, max(0.0, back), expected, names, wanted.name),
                extra={"action": "unload", "engine": engine.name},
            )
            return
        sleep(LOOK_S)


def _back(before: Reading | None, look: Look | None, leave: Sequence[Model], engine: Engine) -> float:
    """GB that came back, by the device's own reading, else by the engine's list."""
    if look is not None and before is not None and before.memory_used_gb is not None:
        now = look()
        if now is not None and now.memory_used_gb is not None:
            return before.memory_used_gb - now.memory_used_gb
    there = {known.name for known in engine.loaded()}
    return sum(_taken(known) for known in leave if known.name not in there)


def _taken(model: Model) -> float:
    """GB of the device's memory."""
    return (model.size_gb or 0.0) if model.vram_gb is None else model.vram_gb


def _warn_of_strangers(device: Device, wanted: Model, found: Reading | None) -> None:
    """Memory that others hold is no fault of the engine's, which may put a part of the model on the CPU."""
    free = None if found is None else found.memory_free_gb
    if found is None or free is None or wanted.size_gb is None or free >= wanted.size_gb:
        return
    holders = [f"{held.name or held.pid} {held.memory_gb:.1f} GB" for held in found.processes or () if held.memory_gb]
    logger.warning(
        "%s has %.1f GB free, %s takes %.1f; its memory is held by: %s",
        *(device.worker, free, wanted.name, wanted.size_gb, ", ".join(holders) or "programs it does not name"),
        extra={"action": "make_room", "device": device.name},
    )
