"""A worker's side of the claim: what it asks for, what it holds, and letting go of it whatever the connection does.

The transport sends the command and hands over the reply; acks and hand-backs go another way, through a client of
their own, and wait in an outbox while Redis is away. One claimer a worker process; it outlives connections.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from gpu_mesh.domain.claim import Rules
from gpu_mesh.domain.device import Device
from gpu_mesh.domain.requirements import Requirements
from gpu_mesh.domain.scoring import Mode, node_score
from gpu_mesh.errors import BrokerUnavailable, InvalidTask
from gpu_mesh.services import placement
from gpu_mesh.settings import Settings
from gpu_mesh.store import claims, keys
from gpu_mesh.store.client import connect, mapped_errors

__all__ = ["Claimer"]

#: A store function that ends a claim: (client, worker, tag) → whether it was this worker's.
LetGo = Callable[[Any, str, str], bool]

logger = logging.getLogger(__name__)

#: How long an ack may hold up the worker before it goes to the outbox, s.
CALL_TIMEOUT_S = 1.0
#: How old a judgement may get, s: a CPU may stand for a GPU only until one joins.
JUDGE_ANEW_S = 30.0
#: Longest sleep of an idle worker before it looks by itself, s: a stock producer wakes nobody.
LOOK_AFTER_S = 1.0
#: Shortest sleep, s: 0 would be for ever to Redis.
SHORTEST_S = 0.005


class Claimer:
    """What worker `worker` claims for `device`; without a device everything fits."""

    def __init__(self, settings: Settings, worker: str, device: Device | None) -> None:
        self.worker = worker
        self._settings = settings
        self._device = device
        self._client = connect(settings, timeout_s=CALL_TIMEOUT_S)
        self._sha = claims.claim_sha(self._client)
        self._lock = threading.Lock()
        self._held: set[str] = set()
        self._outbox: list[tuple[str, LetGo]] = []
        #: One sender at a time: the event loop, a pool's thread and the lease's all let go.
        self._sending = threading.RLock()
        self._fits: set[str] = set()
        self._misfits: set[str] = set()
        self._models: dict[str, str | None] = {}
        self._unjudgeable: dict[str, str] = {}
        self._judged_at = time.monotonic()
        self._idle = False
        #: The model that the last job needed; it is still loaded.
        self.loaded: str | None = None

    @property
    def held(self) -> frozenset[str]:
        """Tags of what this worker holds, as far as it knows."""
        with self._lock:
            return frozenset(self._held)

    def load(self) -> None:
        """Have Redis know the claim script."""
        with mapped_errors(self._settings):
            claims.load(self._client)

    def command(self, queues: Sequence[str]) -> list[str]:
        """The Redis command to send next: a claim from `queues`, or a wait for a wake after one that found nothing."""
        if self._idle:
            self._idle = False
            promoted, next_s = self.promote()
            if not promoted:
                pause_s = LOOK_AFTER_S if next_s is None else max(SHORTEST_S, min(LOOK_AFTER_S, next_s))
                return ["BRPOP", keys.wake(self.worker), f"{pause_s:.3f}"]
        self.flush()
        claimant = claims.Claimant(
            worker=self.worker,
            node=self.worker.partition("@")[2],
            queues=queues,
            held=self.held,
            fits=frozenset(self._fits),
            misfits=frozenset(self._misfits),
            loaded=frozenset(n for n, model in self._models.items() if self.loaded and model == self.loaded),
            modelless=frozenset(n for n, model in self._models.items() if model is None),
        )
        return ["EVALSHA", self._sha, "0", *claims.claim_arguments(claimant, Rules())]

    def read(self, reply: Any) -> claims.Claimed | None:
        """What the answer to `command` means: a claim that is ours now, or None."""
        if not reply or _text(reply[0]) == keys.wake(self.worker):
            return None  # the wait for a wake is over, with or without one
        answer = claims.read_reply(reply)
        if isinstance(answer, claims.Claimed):
            with self._lock:
                self._held.add(answer.tag)
            if answer.needs in self._unjudgeable:
                self.bury(answer.tag, self._unjudgeable[answer.needs])
                return None
            self.loaded = self._models.get(answer.needs) or self.loaded
            return answer
        if isinstance(answer, claims.Unjudged):
            for number, needs in answer.needs.items():
                self._judge(number, needs)
        elif not isinstance(answer, claims.Again):
            self._idle = True
            if isinstance(answer, claims.Refused):
                logger.info("may not claim: %s", answer.why, extra={"action": "claim_refused"})
        return None

    def _judge(self, number: str, text: str) -> None:
        try:
            needs = Requirements.of(dict(json.loads(text)))
        except (InvalidTask, ValueError, TypeError, OverflowError, RecursionError) as exc:
            # No device may run what nobody can judge: whoever claims it puts it away.
            self._unjudgeable[number] = f"its needs are no needs: {exc}"
            self._fits.add(number)
            return
        self._models[number] = needs.model
        if not self._suits(needs):
            self._misfits.add(number)
            return
        self._fits.add(number)
        if self._device is not None:
            scores = {mode.value: node_score(needs, self._device, mode) for mode in Mode}
            self._try(claims.rank, self._client, self.worker, number, scores)

    def _suits(self, needs: Requirements) -> bool:
        return self._device is None or placement.suits(self._settings, needs, self._device)

    def promote(self) -> tuple[int, float | None]:
        """Put delayed messages that are due into their lists: how many, and seconds until the next is due."""
        found: tuple[int, float | None] | None = self._try(claims.promote, self._client)
        return found or (0, None)

    def delay(self, claimed: claims.Claimed, due: float) -> bool:
        """Keep a message that was claimed before its time, `due` in s since the epoch; False when it is due."""
        if not self._try(
            claims.delay, self._client, claimed.list, claimed.envelope, claimed.tag, due, worker=self.worker
        ):
            return False
        with self._lock:
            self._held.discard(claimed.tag)
        return True

    def pause(self) -> None:
        """Wait a moment before the next claim: Redis would not run this one."""
        self._idle = True

    def judge_anew(self) -> None:
        """Forget every judgement: the fleet, and with it what a CPU may stand for, has changed."""
        self._fits, self._misfits = set(), set()
        self._judged_at = time.monotonic()

    def ack(self, tag: str) -> None:
        """The job of a claim is done."""
        self._let_go(tag, claims.ack)

    def hand_back(self, tag: str, *, counts: bool) -> None:
        """Give a claim back to the front of its queue; `counts`: as a delivery."""
        self._let_go(tag, partial(claims.hand_back, counts=counts, max_deliveries=self._settings.max_deliveries))

    def bury(self, tag: str, why: str) -> None:
        """Move a claim to the dead letters."""
        self._let_go(tag, partial(claims.bury, why=why))

    def _let_go(self, tag: str, how: LetGo) -> None:
        with self._lock:
            self._outbox.append((tag, how))
        self.flush()

    def flush(self) -> None:
        """Send what the outbox holds; what Redis does not answer stays there."""
        with self._sending:
            while self._outbox:
                tag, how = self._outbox[0]
                done = self._try(how, self._client, self.worker, tag)
                if done is None:
                    return
                if not done:
                    logger.warning("claim %s was not ours any more", tag, extra={"action": "late_ack"})
                with self._lock:
                    if self._outbox and self._outbox[0][0] == tag:
                        self._outbox.pop(0)
                    self._held.discard(tag)

    def tick(self) -> None:
        """What a thread of the worker does now and then, whatever its event loop is busy with."""
        self.flush()
        self.promote()
        if time.monotonic() - self._judged_at > JUDGE_ANEW_S:
            self.judge_anew()

    def forget(self) -> list[str]:
        """The lease was lost: what was held is another's now. Returns the tags."""
        with self._lock:
            tags, self._held, self._outbox = list(self._held), set(), []
        return tags

    def _try(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        """The call's answer, or None while Redis is away."""
        try:
            with mapped_errors(self._settings):
                return call(*args, **kwargs)
        except BrokerUnavailable as exc:
            logger.warning("%s waits for Redis: %s", call, exc, extra={"action": "outbox"})
            return None


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
