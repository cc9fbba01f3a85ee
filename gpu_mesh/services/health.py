"""The check of everybody: what a look at the mesh finds becomes states, cordons and alerts (SPEC H1-H5, F4).

`looking` asks, `diagnosis` judges by domain/checkup and domain/health, `health_alerts` tells, `recovery` has engines
restarted; who is ill is cordoned here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import celery

from gpu_mesh.domain.holds import node_of
from gpu_mesh.services import alerts, recovery
from gpu_mesh.services.diagnosis import diagnose
from gpu_mesh.services.health_alerts import FLAPPING, tell, words
from gpu_mesh.services.looking import Seen, look
from gpu_mesh.settings import Settings
from gpu_mesh.store import availability, cordons, health, server
from gpu_mesh.store.client import connect, kept_client, mapped_errors
from gpu_mesh.store.health import DEVICE, NODE, Checked

__all__ = ["HEALTH", "HOLD", "HOLD_S", "YIELD_S", "read", "reconcile", "tick"]

logger = logging.getLogger(__name__)

#: The reason of a cordon of what is ill.
HEALTH = "health"
#: How long it holds unless it is renewed, in checks and s.
HOLD, HOLD_S = 3.0, 30.0
#: How long what runs on a device that becomes unhealthy may take to save and yield, s.
YIELD_S = 5.0
#: Renewals of its registration after which a node that is not heard of is missing.
UNHEARD = 1.5


def reconcile(app: celery.Celery, settings: Settings) -> None:
    """A check at Redis's time, unless another one was begun lately. Raises BrokerUnavailable."""
    with mapped_errors(settings):
        client = kept_client(settings)
        if health.may_check(client, settings.health_every_s / 2):
            seen = look(app, client, settings)
            tick(client, settings, server.now(client), seen)


def read(settings: Settings) -> tuple[float, list[Checked]]:
    """What time it is by Redis's clock, s since the epoch, and how everybody was found by the last check, by kind and
    name. Raises BrokerUnavailable."""
    with mapped_errors(settings), connect(settings) as client:
        found = list(health.all_checked(client).values())
        return server.now(client), found


def tick(client: Any, settings: Settings, now: float, seen: Seen) -> None:
    """What a look found becomes states, cordons and alerts. `now`: s since the epoch."""
    before = health.all_checked(client)
    after = {one.subject: one for one in diagnose(settings, now, seen, before)}
    health.keep(client, after.values())
    _cordon(client, settings, now, after.values())
    missing = {one.node.name for one in seen.nodes if one.silent_s > UNHEARD * settings.node_refresh_s}
    tell(client, before, after, missing)
    _forget(client, seen, [one for name, one in before.items() if name not in after])
    recovery.tick(client, now, after.values())


def _cordon(client: Any, settings: Settings, now: float, checked: Iterable[Checked]) -> None:
    """Devices that are unhealthy or offline claim nothing, and what runs there moves. A cordon ends by itself where
    nobody checks any more."""
    held = {one.name: one for one in cordons.all_cordons(client) if one.reason == HEALTH}
    hold_s = HOLD * settings.health_every_s + HOLD_S
    for one in checked:
        if one.kind != DEVICE:
            continue
        if not one.health.is_claimable:
            # As it began: words that change with each check would be told each time.
            why = held[one.name].why if one.name in held else words(one.health)
            cordons.cordon(client, one.name, HEALTH, why=why, until=now + hold_s, yield_s=YIELD_S)
        elif one.name in held:
            cordons.lift(client, one.name, HEALTH)
            availability.back(client)  # submits of realtime work are taken again at once


def _forget(client: Any, seen: Seen, gone: Sequence[Checked]) -> None:
    """Who left in order, or is offered and watched no more, is not ill."""
    left = {entry.node.name for entry in seen.nodes if entry.left}
    for one in gone:
        node = one.name if one.kind == NODE else node_of(one.name)
        how = "left in order" if node in left else "is no longer part of the mesh"
        for rule in (one.kind, FLAPPING):
            alerts.clear(client, rule, one.name, how)
        if one.kind == DEVICE:
            cordons.lift(client, one.name, HEALTH)
        logger.info("%s %s", one.subject, how, extra={"action": "forget", "subject": one.subject})
    health.forget(client, [one.subject for one in gone])
