"""Internal work waits in peak hours while many devices do interactive work (SPEC Q3; DESIGN §7).

`tick` is the control worker's, whose settings hold. Its gate ends by itself where nobody renews it.
"""

from __future__ import annotations

import logging
from typing import Any

from gpu_mesh.domain.availability import serves_devices
from gpu_mesh.domain.usage import Usage, waits
from gpu_mesh.services import windows
from gpu_mesh.services.gates import USAGE
from gpu_mesh.settings import Settings
from gpu_mesh.store import gates, holds, leases
from gpu_mesh.store import windows as store

__all__ = ["EVERY_S", "QUEUE", "tick"]

logger = logging.getLogger(__name__)

#: The queue that waits.
QUEUE = "internal"
#: How often it looks, s, and how long a gate holds that is not renewed.
EVERY_S, HOLD_S = 10.0, 45.0


def tick(client: Any, settings: Settings, now: float) -> None:
    """Close or open the queue as usage says. `now`: s since the epoch."""
    held = next((gate for gate in gates.all_gates(client) if _is_ours(gate)), None)
    told, _ = store.read(client)
    closes = waits(
        usage := measured(client),
        now,
        waited=held is not None,
        changed_at=store.usage_changed_at(client),
        is_peak=windows.is_peak(told or windows.own_plan(settings), now),
        limit=settings.usage_share,
    )
    if closes:
        why = f"more than {settings.usage_share:.0%} of the devices did interactive work"
        gates.close(client, QUEUE, USAGE, until=now + HOLD_S, why=why)
    elif held is not None:
        gates.reopen(client, QUEUE, USAGE)
    if closes != (held is not None):
        store.set_usage_changed_at(client, now)
        logger.info(
            "%s %s: %d of %d devices do interactive work",
            *(QUEUE, "closes" if closes else "opens", usage.busy, usage.devices),
            extra={"action": "usage"},
        )


def measured(client: Any) -> Usage:
    """How many of the devices do interactive work now."""
    devices = frozenset(filter(serves_devices, leases.living(client)))
    return Usage(len(holds.interactive(client, devices) & devices), len(devices))


def _is_ours(gate: gates.Gate) -> bool:
    return (gate.queue, gate.reason, gate.scope) == (QUEUE, USAGE, gates.MESH)
