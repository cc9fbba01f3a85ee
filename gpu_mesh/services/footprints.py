"""Footprints of models: seen by the jobs that use them, read where a job's memory is judged (SPEC P6)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from gpu_mesh.domain.device import Device
from gpu_mesh.domain.footprints import Footprints, merged
from gpu_mesh.engines.base import Ability, Engine
from gpu_mesh.engines.naming import canonical
from gpu_mesh.errors import BrokerUnavailable, EngineError
from gpu_mesh.settings import Settings
from gpu_mesh.store import footprints as store
from gpu_mesh.store import server
from gpu_mesh.store.client import connect, mapped_errors

__all__ = ["known", "note"]

logger = logging.getLogger(__name__)

#: How often one process looks what a model takes, s: it costs a question to the engine.
LOOK_EVERY_S = 60.0

#: When this process looked last, by device, engine's address and model.
_looked: dict[tuple[str, str, str], float] = {}


def known(settings: Settings) -> Footprints:
    """What was seen; nothing while Redis is away."""
    try:
        with mapped_errors(settings), connect(settings) as client:
            return store.read(client)
    except BrokerUnavailable as exc:
        logger.info("estimates stand for what was seen: %s", exc, extra={"action": "footprint"})
        return {}


def note(
    device: Device, engine: Engine, model: str, settings: Settings, *, clock: Callable[[], float] = time.monotonic
) -> None:
    """Remember what `model`, which a job has just used, takes. Fails no job; asks the engine seldom.

    A model of which the CPU does a part counts whole: as much would be needed to have none of it there.
    """
    if engine.url is None or Ability.LOADED not in engine.abilities:
        return
    name, now = canonical(model), clock()
    key = (device.worker, engine.url, name)
    if now - _looked.get(key, float("-inf")) < LOOK_EVERY_S:
        return
    _looked[key] = now
    try:
        size_gb = next((found.size_gb for found in engine.loaded() if canonical(found.name) == name), None)
        if not size_gb:
            return
        with mapped_errors(settings), connect(settings) as client:
            before = store.read(client).get((device.gpu_type, name))
            seen = merged(before, size_gb, server.now(client))
            if seen != before:
                store.write(client, device.gpu_type, name, seen)
    except (BrokerUnavailable, EngineError) as exc:
        logger.info("what %s takes is not noted: %s", model, exc, extra={"action": "footprint"})
