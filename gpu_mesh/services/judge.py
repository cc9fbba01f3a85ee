"""What a worker knows of needs: which its device fits, and how well. The store names them by numbers.

Needs are judged in one place, `domain/requirements`; a claim carries the verdicts, so that Redis never judges.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from gpu_mesh.domain.device import Device
from gpu_mesh.domain.requirements import Requirements
from gpu_mesh.domain.scoring import Condition, Mode, node_score
from gpu_mesh.errors import InvalidTask
from gpu_mesh.services import placement
from gpu_mesh.settings import Settings
from gpu_mesh.store import health, ranking

__all__ = ["Judge"]

logger = logging.getLogger(__name__)

#: How old a judgement may get, s: a CPU may stand for a GPU only until one joins, and a node's load changes.
JUDGE_ANEW_S = 30.0

#: Calls a store function with arguments; None while Redis is away.
Call = Callable[..., Any]


class Judge:
    """Verdicts of one worker for `device`; without a device everything fits.

    `held`: GB of it that strangers hold now. Times come from `clock`, s.
    """

    def __init__(
        self,
        settings: Settings,
        worker: str,
        device: Device | None,
        call: Call,
        clock: Callable[[], float] = time.monotonic,
        held: Callable[[], float] = float,
    ) -> None:
        self._settings = settings
        self._worker = worker
        self._device = device
        self._call = call
        self._clock = clock
        self._held = held
        self._judged_at = clock()
        self._needs: dict[str, Requirements] = {}
        self._unjudgeable: dict[str, str] = {}
        self._loaded: str | None = None
        #: What its score is multiplied by, as it was last checked.
        self._health = 1.0
        self.fits: set[str] = set()
        self.misfits: set[str] = set()
        #: Needs of several devices: how many siblings, and the workers of those that would do.
        self.teams: dict[str, tuple[int, Sequence[str]]] = {}

    def why_not(self, number: str) -> str | None:
        """Why nobody can judge these needs; None where it can be done."""
        return self._unjudgeable.get(number)

    def with_model(self, loaded: bool) -> frozenset[str]:
        """Needs whose model is loaded, or those that need none."""
        if loaded and self._loaded is None:
            return frozenset()
        wanted = self._loaded if loaded else None
        return frozenset(number for number, needs in list(self._needs.items()) if needs.model == wanted)

    def ran(self, number: str) -> None:
        """A job of these needs was taken: its model is the loaded one from now on, if it needs one."""
        needs = self._needs.get(number)
        if needs is None or needs.model in (None, self._loaded):
            return
        before, self._loaded = self._loaded, needs.model
        for other, known in list(self._needs.items()):
            if other in self.fits and known.model in (before, self._loaded) and known.model is not None:
                self._enter(other, known)

    def judge(self, number: str, text: str) -> None:
        """Whether the device fits the needs of that number, JSON `text`; if so, enter its node score."""
        try:
            needs = Requirements.of(dict(json.loads(text)))
        except (InvalidTask, ValueError, TypeError, OverflowError, RecursionError) as exc:
            # No device may run what nobody can judge: whoever claims it puts it away.
            self._unjudgeable[number] = f"its needs are no needs: {exc}"
            self.fits.add(number)
            return
        self._needs[number] = needs
        if self._device is None:
            self.fits.add(number)
        elif placement.suits(self._settings, needs, self._device):
            if needs.gpu_count > 1:
                self.teams[number] = needs.gpu_count - 1, placement.siblings(self._settings, needs, self._device)
            self._rank(number, needs, self._device)
            self.fits.add(number)
        else:
            self.misfits.add(number)
            self._call(ranking.unrank, self._worker, number)

    def refresh(self) -> None:
        """When the verdicts are old, or strangers came or left: enter the scores anew, and forget what fits."""
        held = self._held()
        if self._device is not None and held != self._device.held_gb:
            logger.info("other programs hold %g GB of the device", held, extra={"action": "held", "held_gb": held})
            self._device = replace(self._device, held_gb=held)
        elif self._clock() - self._judged_at < JUDGE_ANEW_S:
            return
        checked = self._call(health.checked, health.DEVICE, self._worker)
        self._health = 1.0 if checked is None else checked.health.factor
        for number, needs in list(self._needs.items()):
            if number in self.fits and self._device is not None:
                self._enter(number, needs)
        self.fits, self.misfits, self.teams = set(), set(), {}
        self._judged_at = self._clock()

    def forget(self) -> None:
        """Know nothing: Redis may have lost data, and give the numbers to other needs."""
        self._needs, self._unjudgeable = {}, {}
        self.fits, self.misfits, self.teams = set(), set(), {}

    def _rank(self, number: str, needs: Requirements, own: Device) -> None:
        """Enter our score; who is first to judge these needs enters everybody's.

        So a publish finds the best, and a critical task a standby, among devices that have been busy ever since.
        """
        if self._call(ranking.is_ranked, number) is False:
            for device in placement.fitting(self._settings, needs):
                if device.worker != own.worker:
                    scores = {mode.value: node_score(needs, device, mode) for mode in Mode}
                    self._call(ranking.rank, device.worker, number, scores)
        self._enter(number, needs)

    def _enter(self, number: str, needs: Requirements) -> None:
        if self._device is None:
            return
        load = min(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        now = Condition(load=load, health=self._health, model=self._loaded)
        scores = {mode.value: node_score(needs, self._device, mode, now) for mode in Mode}
        self._call(ranking.rank, self._worker, number, scores)
