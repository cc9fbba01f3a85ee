"""A device whose engine does not answer takes no realtime work until it does (SPEC R4).

The job that meets it closes ai-realtime for its device, and goes back into its queue, for the other devices. The
device's worker then asks the engine until it answers. The gate ends by itself, should the worker die meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from gpu_mesh.domain.availability import REALTIME_QUEUE
from gpu_mesh.domain.device import Device
from gpu_mesh.engines import Engine, engines_for
from gpu_mesh.engines.importing import check_unforked
from gpu_mesh.services.gates import HEALTH
from gpu_mesh.settings import Settings
from gpu_mesh.store import availability, gates, server
from gpu_mesh.store.client import connect, mapped_errors

__all__ = ["close", "mend", "silent_engine"]

logger = logging.getLogger(__name__)

#: How long the gate holds that nobody renews, s; it is renewed when half of that is left.
HOLD_S = 30.0

#: As `engines_for`.
EnginesOf = Callable[[Device, Settings], Sequence[Engine]]


def silent_engine(device: Device, settings: Settings, engines: EnginesOf = engines_for) -> str | None:
    """What is wrong with an engine of the device that is known to be at an address and does not answer; None where all
    answer, or none is known."""
    remote = [engine for engine in engines(device, settings) if engine.url is not None]
    found = map(check_unforked, remote)
    return next((status.error or "it does not answer" for status in found if not status.reachable), None)


def close(device: Device, settings: Settings, why: str) -> None:
    """Have the device take no realtime work. Raises BrokerUnavailable."""
    with mapped_errors(settings), connect(settings) as client:
        until = server.now(client) + HOLD_S
        if gates.close(client, REALTIME_QUEUE, HEALTH, scope=device.worker, until=until, why=why):
            logger.warning("%s is closed to %s: %s", REALTIME_QUEUE, device.worker, why, extra={"action": "engine"})


def mend(device: Device, settings: Settings, engines: EnginesOf = engines_for) -> bool:
    """Where the device takes no realtime work for its engine: take it again if that answers. Whether it does.

    Raises BrokerUnavailable.
    """
    with mapped_errors(settings), connect(settings) as client:
        held = [gate for gate in gates.all_gates(client) if (gate.reason, gate.scope) == (HEALTH, device.worker)]
        if not held:
            return False
        why = silent_engine(device, settings, engines)
        now = server.now(client)
        if why is not None:
            if (held[0].until or 0.0) - now < HOLD_S / 2:
                gates.close(client, REALTIME_QUEUE, HEALTH, scope=device.worker, until=now + HOLD_S, why=why)
            return False
        if gates.reopen(client, REALTIME_QUEUE, HEALTH, scope=device.worker):
            logger.info(
                "%s is open to %s: its engine answers", REALTIME_QUEUE, device.worker, extra={"action": "engine"}
            )
        availability.back(client)
        return True
