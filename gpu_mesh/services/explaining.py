"""Why a task that waits cannot run now (SPEC P2, R2, F4)."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from gpu_mesh.domain.device import Device
from gpu_mesh.domain.preemption import PREEMPTED
from gpu_mesh.domain.queues import GPU_QUEUES
from gpu_mesh.domain.requirements import Requirements
from gpu_mesh.errors import InvalidTask
from gpu_mesh.services import gates, placement
from gpu_mesh.settings import Settings
from gpu_mesh.store import cordons, preemption, queues
from gpu_mesh.store.client import connect, mapped_errors

__all__ = ["UNSCHEDULABLE", "WAITING", "Explainer"]

#: States of tasks that wait, beside PREEMPTED: their turn comes; no device online fits them.
WAITING, UNSCHEDULABLE = "WAITING", "UNSCHEDULABLE"

#: Devices that a reason names, when it is one each.
NAMED = 3

#: One of placement's judgements: why no device of a fleet does for the needs, or None.
_Judge: TypeAlias = Callable[[Requirements, list[Device]], str | None]


class Explainer:
    """Says why a message cannot run now; asks the registry and the gates once, judges each needs once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._fleet: list[Device] | None = None
        self._known: dict[str, str | None] = {}
        self._closed: dict[str, str | None] | None = None
        self._preempted: dict[str, int] | None = None
        self._cordoned: dict[str, str] | None = None
        self._kept: dict[str, str | None] = {}

    def was_preempted(self, message: queues.Waiting) -> bool:
        """Whether the message made room for more urgent work before."""
        if self._preempted is None:
            with mapped_errors(self._settings), connect(self._settings) as client:
                self._preempted = preemption.waiting(client)
        if not self._preempted or not message.headers:
            return False
        properties = json.loads(message.raw).get("properties")
        return isinstance(properties, dict) and str(properties.get("delivery_tag")) in self._preempted

    def _closure(self, queue: str) -> str | None:
        """By what the queue is closed, or None where it is open to a device online."""
        if self._closed is None:
            with mapped_errors(self._settings), connect(self._settings) as client:
                closures = gates.read_closures(client, self._settings)
            names = {gate.queue for gate in closures.gates}
            self._closed = {name: closures.why(name, self._devices()) for name in names}
        return self._closed.get(queue)

    def standing(self, queue: str, given: object, *, was_preempted: bool) -> tuple[str, str | None]:
        """The state of a task that waits, `given` its needs, and why it cannot run now; None where it is only not its
        turn."""
        if (why := self._misfit(queue, given)) is not None:
            return UNSCHEDULABLE, why
        return PREEMPTED if was_preempted else WAITING, self._closure(queue) or self._held_up(queue, given)

    def _misfit(self, queue: str, given: object) -> str | None:
        """The reasons, or None where a device fits what is `given` as needs, or the queue needs none."""
        return self._judged(self._known, queue, given, partial(placement.unschedulable, self._settings))

    def _held_up(self, queue: str, given: object) -> str | None:
        """Why a device that fits cannot take it now: programs hold its memory, or it takes no work; None where one
        can."""
        return self._judged(self._kept, queue, given, self._all_held_up)

    def _all_held_up(self, needs: Requirements, fleet: list[Device]) -> str | None:
        if self._cordoned is None:
            with mapped_errors(self._settings), connect(self._settings) as client:
                self._cordoned = cordons.cordoned(client)
        told = []
        for device in fleet:
            if placement.unschedulable(self._settings, needs, [device]) is not None:
                continue
            why = self._cordoned.get(device.worker) or self._cordoned.get(device.node)
            why = why or placement.held_back(self._settings, needs, [device])
            if why is None:
                return None
            told.append(f"{device.worker}: {why}")
        return f"no device that fits takes it now: {', '.join(told[:NAMED])}{', …' if told[NAMED:] else ''}"

    def _judged(self, known: dict[str, str | None], queue: str, given: object, judge: _Judge) -> str | None:
        if queue not in GPU_QUEUES or not isinstance(given, dict):
            return None
        text = json.dumps(given, sort_keys=True)
        if text not in known:
            try:
                known[text] = judge(Requirements.of(given), self._devices())
            except InvalidTask as exc:
                known[text] = str(exc)
        return known[text]

    def _devices(self) -> list[Device]:
        if self._fleet is None:
            self._fleet = placement.online_devices(self._settings)
        return self._fleet
