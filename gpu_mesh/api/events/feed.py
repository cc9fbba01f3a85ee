"""What the hub is fed with: Celery's events, and what changes between two readings of the mesh."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from gpu_mesh.api.backend import Backend
from gpu_mesh.domain.happenings import happened
from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.services import snapshot
from gpu_mesh.services.changes import changes
from gpu_mesh.services.retelling import Reteller
from gpu_mesh.store.celery_events import listen
from gpu_mesh.store.client import connect_async, mapped_errors

__all__ = ["feed"]

logger = logging.getLogger(__name__)

Publish = Callable[[Iterable[dict[str, Any]]], None]
#: Between two readings, s: at least, and as a multiple of what one took, so that they cost a twentieth of a core.
READ_EVERY_S, READ_SHARE = 1.0, 20
#: Until the next try when Redis is away, s.
RETRY_S = 0.5


async def feed(backend: Backend, publish: Publish) -> None:
    """Publish what happens, until cancelled."""
    reteller, was_read = Reteller(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(_patient(_hear, backend, publish, reteller, was_read))
        group.create_task(_patient(_compare, backend, publish, reteller, was_read))


async def _patient(work: Callable[..., Any], *args: Any) -> None:
    """A fault of ours costs a line in the log, not everybody's events."""
    while True:
        try:
            await work(*args)
        except Exception:
            logger.exception("events: going on after a fault", extra={"action": "events"})
        await asyncio.sleep(RETRY_S)


async def _hear(backend: Backend, publish: Publish, reteller: Reteller, was_read: asyncio.Event) -> None:
    away: float | None = None
    while True:
        try:
            with mapped_errors(backend.settings):
                async with connect_async(backend.settings) as client:
                    async for events in listen(client, str(backend.app.conf.event_exchange)):
                        now = time.time()
                        if events is None:
                            await was_read.wait()  # else a change between the two would be missed
                            reteller.forget_times(now)
                            publish([happened("mesh.connected", now, away_s=None if away is None else now - away)])
                            away = None
                        for event in events or ():
                            publish(reteller.retell(event, now))
                        if not events:
                            publish(reteller.silent(now))
        except BrokerUnavailable as exc:
            if away is None:
                away = time.time()
                publish([happened("mesh.disconnected", away, why=str(exc))])
        await asyncio.sleep(RETRY_S)


async def _compare(backend: Backend, publish: Publish, reteller: Reteller, was_read: asyncio.Event) -> None:
    before = None
    while True:
        began = time.monotonic()
        try:
            after = await asyncio.to_thread(snapshot.read_from, backend.client, backend.settings)
        except BrokerUnavailable:  # which _hear tells
            pass
        else:
            reteller.remember(after.running)
            if before is not None:
                publish(changes(before, after))
            before = after
            was_read.set()
        took = time.monotonic() - began
        await asyncio.sleep(max(READ_EVERY_S, took * READ_SHARE))
