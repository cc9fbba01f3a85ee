"""Why a task that waits cannot run now (SPEC P2, R2, F4)."""

from __future__ import annotations

import json

from gpu_mesh.domain.device import Device
from gpu_mesh.domain.queues import GPU_QUEUES
from gpu_mesh.domain.requirements import Requirements
from gpu_mesh.errors import InvalidTask
from gpu_mesh.services import gates, placement
from gpu_mesh.settings import Settings
from gpu_mesh.store import cordons, preemption, queues
from gpu_mesh.store.client import connect, mapped_errors

__all__ = ["Explainer"]

#: Devices that a reason names, when it is one each.
NAMED = 3


class Explainer:
    """Says why a message cannot run now; asks the registry and the gates once, judges each needs once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._fleet: list[Device] | None = None
        self._known: dict[str, str | None] = {}
        self._closed: dict[str, str | None] | None = None
        self._preempted: dict[str, int] | None = None
        self._cordoned: dict[str, str] | None = None
        self._kept_off: dict[str, str | None] = {}

    def was_preempted(self, message: queues.Waiting) -> bool:
        """Whether the message made room for more urgent work before."""
        if self._preempted is None:
            with mapped_errors(self._settings), connect(self._settings) as client:
                self._preempted = preemption.waiting(client)
        if not self._preempted or not message.headers:
            return False
        properties = json.loads(message.raw).get("properties")
        return isinstance(properties, dict) and str(properties.get("delivery_tag")) in self._preempted

    def closed(self, queue: str) -> str | None:
        """By what the queue is closed, or None where it is open to a device online."""
        if self._closed is None:
            with mapped_errors(self._settings), connect(self._settings) as client:
                closures = gates.read_closures(client, self._settings)
            names = {gate.queue for gate in closures.gates}
            self._closed = {name: closures.why(name, self._devices()) for name in names}
        return self._closed.get(queue)

    def kept_off(self, queue: str, given: object) -> str | None:
        """Why the devices that fit what is `given` as needs take no work, where none of them does; else None."""
        if queue not in GPU_QUEUES or not isinstance(given, dict):
            return None
        if self._cordoned is None:
            with mapped_errors(self._settings), connect(self._settings) as client:
                self._cordoned = cordons.cordoned(client)
        if not self._cordoned:
            return None
        text = json.dumps(given, sort_keys=True)
        if text not in self._kept_off:
            self._kept_off[text] = self._all_kept_off(Requirements.of(given), self._cordoned)
        return self._kept_off[text]

    def _all_kept_off(self, needs: Requirements, cordoned: dict[str, str]) -> str | None:
        told = []
        for device in self._devices():
            if placement.unschedulable(self._settings, needs, [device]) is not None:
                continue
            why = cordoned.get(device.worker) or cordoned.get(device.node)
            if why is None:
                return None
            told.append(f"{device.worker}: {why}")
        return f"no device that fits takes work: {', '.join(told[:NAMED])}{', …' if told[NAMED:] else ''}"

    def _devices(self) -> list[Device]:
        if self._fleet is None:
            self._fleet = placement.online_devices(self._settings)
        return self._fleet

    def why(self, queue: str, given: object) -> str | None:
        """The reasons, or None where a device fits what is `given` as needs, or the queue needs none."""
        if queue not in GPU_QUEUES or not isinstance(given, dict):
            return None
        text = json.dumps(given, sort_keys=True)
        if text not in self._known:
            try:
                needs = Requirements.of(given)
                self._known[text] = placement.unschedulable(self._settings, needs, self._devices())
            except InvalidTask as exc:
                self._known[text] = str(exc)
        return self._known[text]
