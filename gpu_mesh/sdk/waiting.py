"""Waiting for a task's end by looking at its result: safe in any thread, and no thread is held between two looks.

Celery's own `get` listens on one connection for the whole process, which no two threads may share.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from celery import states
from celery.result import AsyncResult, EagerResult

from gpu_mesh.celery import app
from gpu_mesh.errors import BrokerUnavailable, DeadLettered, InvalidTask
from gpu_mesh.services import tracking
from gpu_mesh.services.patience import AWAY_S, patiently
from gpu_mesh.settings import Settings
from gpu_mesh.store import dead
from gpu_mesh.store.client import connect, mapped_errors

__all__ = ["Look", "read"]

#: Between two looks, s: a tenth of what was waited so far, within these bounds.
SHORTEST_S, LONGEST_S, SHARE = 0.005, 0.25, 0.1
#: When it is first looked whether the task can end at all, s; each look after that is twice as late.
DOUBT_AFTER_S = 5.0


def read(settings: Settings, sent: AsyncResult | EagerResult) -> Mapping[str, Any]:
    """`status` and `result` in one look: between two they may change. Raises BrokerUnavailable."""
    if isinstance(sent, EagerResult):
        return {"status": sent.state, "result": sent.result}
    found: Mapping[str, Any] = patiently(settings, lambda: sent.backend.get_task_meta(sent.id), away_s=0)
    return found


class Look:
    """One wait: `look()` until it gives something, `pause_s` apart."""

    def __init__(
        self,
        settings: Settings,
        sent: AsyncResult | EagerResult,
        timeout_s: float | None,
        *,
        doubt_after_s: float = DOUBT_AFTER_S,
    ) -> None:
        self._settings, self._sent, self._timeout_s = settings, sent, timeout_s
        self._began = time.monotonic()
        self._away_since: float | None = None
        self._heard = self._missed = False
        self._doubt_at = self._began + doubt_after_s

    @property
    def pause_s(self) -> float:
        """How long to wait before the next look."""
        waited = time.monotonic() - self._began
        pause = min(max(waited * SHARE, SHORTEST_S), LONGEST_S)
        return pause if self._timeout_s is None else max(0.0, min(pause, self._timeout_s - waited))

    def look(self) -> Mapping[str, Any] | None:
        """As `read` has it, once the task has ended; None before.

        Raises TimeoutError, DeadLettered, InvalidTask where no such task is known, and BrokerUnavailable: at once where
        Redis is away from the first, else when it is away for 30 s.
        """
        try:
            found = read(self._settings, self._sent)
            self._heard, self._away_since = True, None
            if found["status"] in states.READY_STATES:
                return found
            if time.monotonic() >= self._doubt_at:
                self._doubt(found["status"])
        except BrokerUnavailable:
            now = time.monotonic()
            self._away_since = self._away_since or now
            if not self._heard or now - self._away_since > AWAY_S:
                raise
        if self._timeout_s is not None and time.monotonic() - self._began >= self._timeout_s:
            raise TimeoutError(f"{self._sent.id} has not ended after {self._timeout_s:g} s")
        return None

    def _doubt(self, state: str) -> None:
        """Raise where no end is to come: nobody would wait for it knowingly."""
        now = time.monotonic()
        self._doubt_at = now + (now - self._began)
        with mapped_errors(self._settings), connect(self._settings) as client:
            letter = dead.find(client, self._sent.id)
        if letter is not None:
            raise DeadLettered(f"{self._sent.id} is among the dead letters ({letter.why}): `gpu-mesh dead` shows them")
        if state != states.PENDING:
            return
        try:
            tracking.find(app, self._settings, self._sent.id)
            self._missed = False
        except InvalidTask:
            # On its way from the queue to a worker it may be missed once.
            if self._missed:
                raise
            self._missed = True
