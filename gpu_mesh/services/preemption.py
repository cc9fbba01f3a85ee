"""A worker's ear for preemption: whether a job that it runs is to yield, and to what (DESIGN §7)."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable

from gpu_mesh.domain.device import Device
from gpu_mesh.domain.requirements import Requirements
from gpu_mesh.errors import InvalidTask
from gpu_mesh.services import placement
from gpu_mesh.services.judge import JUDGE_ANEW_S
from gpu_mesh.settings import Settings
from gpu_mesh.store import preemption
from gpu_mesh.store.client import connect, mapped_errors
from gpu_mesh.store.preemption import Asked

__all__ = ["LOOK_EVERY_S", "Ear"]

logger = logging.getLogger(__name__)

#: How often a worker looks by itself, s: a stock producer, a delayed message that is due and a lost notice tell nobody.
LOOK_EVERY_S = 1.0
#: The longest wait in Redis, s: another job may begin meanwhile, to be looked after as soon as it may be asked.
SLICE_S = 0.05
#: How long Redis's answer may take, s.
CALL_TIMEOUT_S = 2.0
#: Rounds of judging in one look; what is left is judged in the next.
ROUNDS = 10


class Ear:
    """That of `worker`, for `device`; without a device everything fits. One thread's. Raises BrokerUnavailable."""

    def __init__(
        self, settings: Settings, worker: str, device: Device | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._worker = worker
        self._device = device
        self._clock = clock
        self._client = connect(settings, timeout_s=LOOK_EVERY_S + CALL_TIMEOUT_S)
        self._fits: set[str] = set()
        self._misfits: set[str] = set()
        self._judged_at = clock()

    def look(self, *, fresh: bool) -> Asked:
        """Have those asked that should yield; which of its own jobs are. `fresh`: messages that just came count too."""
        if self._clock() - self._judged_at > JUDGE_ANEW_S:
            self.forget()
        settle_s = 0.0 if fresh else preemption.SETTLE_S
        with mapped_errors(self._settings):
            for _ in range(ROUNDS):
                told = preemption.seek(
                    self._client, self._worker, fits=self._fits, misfits=self._misfits, settle_s=settle_s
                )
                if isinstance(told, Asked):
                    return told
                for number, text in told.needs.items():
                    (self._fits if self._suits(text) else self._misfits).add(number)
        return Asked(again=True)

    def wait(self, timeout_s: float, unless: Callable[[], bool]) -> tuple[str, str] | None:
        """What is asked within `timeout_s`, see store.preemption.hear; None at once when `unless` becomes true."""
        until = self._clock() + timeout_s
        with mapped_errors(self._settings):
            while (left := until - self._clock()) > 0 and not unless():
                if (heard := preemption.hear(self._client, self._worker, min(SLICE_S, left))) is not None:
                    return heard
        return None

    def spare(self, tag: str, queue: str) -> None:
        """That job is not to be asked."""
        with mapped_errors(self._settings):
            preemption.spare(self._client, self._worker, tag, queue)

    def forget(self) -> None:
        """Judge anew: the fleet changes, and a Redis that lost its data gives the numbers to other needs."""
        self._fits, self._misfits = set(), set()
        self._judged_at = self._clock()

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def _suits(self, text: str) -> bool:
        try:
            needs = Requirements.of(dict(json.loads(text)))
        except (InvalidTask, ValueError, TypeError, OverflowError, RecursionError):
            return False  # nobody runs it: the claim that meets it puts it away
        return self._device is None or placement.suits(self._settings, needs, self._device)
