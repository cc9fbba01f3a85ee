"""A worker's side of the claim: what it asks for, what it holds, and letting go of it whatever the connection does.

The transport sends the command and hands over the reply; acks and hand-backs go another way, through a client of
their own, and wait in an outbox while Redis is away. One claimer a worker process; it outlives connections.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from gpu_mesh.domain import preemption
from gpu_mesh.domain.claim import Rules
from gpu_mesh.domain.device import Device
from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.services.exclusion import Gatekeeper
from gpu_mesh.services.judge import Judge
from gpu_mesh.settings import Settings
from gpu_mesh.store import claims, holds, keys
from gpu_mesh.store.client import connect, mapped_errors
from gpu_mesh.store.replies import text

__all__ = ["Claimer"]

#: A store function that ends a claim: (client, worker, tag) → whether it was this worker's.
LetGo = Callable[[Any, str, str], bool]

logger = logging.getLogger(__name__)

#: How long an ack may hold up the worker before it goes to the outbox, s.
CALL_TIMEOUT_S = 1.0
#: Longest sleep of an idle worker before it looks by itself, s: a stock producer wakes nobody.
LOOK_AFTER_S = 1.0
#: A claim sends for strangers' messages when nobody looked for so long, see _claim.lua.
LOOK_EVERY_S = 0.1
#: Pause before what could not be sent is tried again, s.
OUTBOX_RETRY_S = 0.2
#: Pause before a worker looks again whether a stranger has left its device, s.
DEVICE_RETRY_S = 0.05
#: Shortest sleep, s: 0 would be for ever to Redis.
SHORTEST_S = 0.005


class Claimer:
    """What worker `worker` claims for `device`; without a device everything fits.

    `held`: GB of the device that strangers hold. Times come from `clock`, s.
    """

    def __init__(
        self,
        settings: Settings,
        worker: str,
        device: Device | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        held: Callable[[], float] = float,
    ) -> None:
        self.worker = worker
        self._settings = settings
        self._client = connect(settings, timeout_s=CALL_TIMEOUT_S)
        self._claim_sha, self._look_sha = claims.shas()
        #: What the next claim looks for, see claims.Claimant; None: nothing.
        self._look: str | None = None
        self._rules = Rules(
            horizon_s=settings.aging_horizon_s, affinity_s=settings.affinity_s, gather_s=settings.gather_s
        )
        self._yielding = preemption.Rules(after_s=settings.preempt_after_s, limit=settings.preempt_limit)
        self._clock = clock
        self._asked_at = -math.inf
        self._lock = threading.Lock()
        self._held: set[str] = set()
        self._outbox: list[tuple[str, LetGo]] = []
        self._ended: dict[str, claims.Ended] = {}
        #: One sender at a time: the event loop, a pool's thread and the lease's all let go.
        self._sending = threading.RLock()
        self._gatekeeper = Gatekeeper(settings, device)
        self._judge = Judge(settings, worker, device, self._try_store, clock, held)
        self._idle = False
        #: When the next delayed message is due, s from the last claim.
        self._due_s: float | None = None
        #: Whether Redis may have it as idle: a predecessor of the name may have been.
        self._registered = True
        #: Why the last claim was refused, if it was.
        self._refused: str | None = None

    @property
    def held(self) -> frozenset[str]:
        """Tags of what this worker holds, as far as it knows."""
        with self._lock:
            return frozenset(self._held)

    def load(self) -> None:
        """A connection begins: have Redis know the claim scripts, and trust no verdict on numbers it may have lost."""
        self._judge.forget()
        with mapped_errors(self._settings):
            claims.load(self._client)

    def command(self, queues: Sequence[str]) -> list[str]:
        """The Redis command to send next: a claim from `queues`, or a wait for a wake after one that found nothing."""
        if self._idle:
            self._idle = False
            if self._due_s is None or self._due_s > 0 or not self.promote():
                pause_s = max(SHORTEST_S, min(LOOK_AFTER_S, self._due_s or LOOK_AFTER_S))
                return ["BRPOP", keys.wake(self.worker), f"{pause_s:.3f}"]
        self.flush()
        if self._outbox:
            # What we let go of comes first: its claim might be given to us again.
            return ["BRPOP", keys.wake(self.worker), f"{OUTBOX_RETRY_S:.3f}"]
        if not self._held and not self._gatekeeper.may_claim():
            return ["BRPOP", keys.wake(self.worker), f"{DEVICE_RETRY_S:.3f}"]
        # Here, where claims are made, for verdicts that change between two reads fit nothing.
        self._judge.refresh()
        claimant = claims.Claimant(
            worker=self.worker,
            node=self.worker.partition("@")[2],
            queues=queues,
            held=self.held,
            fits=frozenset(self._judge.fits),
            misfits=frozenset(self._judge.misfits),
            loaded=self._judge.with_model(True),
            modelless=self._judge.with_model(False),
            teams=self._judge.teams,
            idle=self._registered,
            look=self._look or "",
            pause_scope=self._settings.pause_scope,
        )
        # After a pause it would be sent there anyway.
        looks = self._look is not None or self._clock() - self._asked_at > LOOK_EVERY_S
        self._asked_at = self._clock()
        sha = self._look_sha if looks else self._claim_sha
        return ["EVALSHA", sha, "0", *claims.claim_arguments(claimant, self._rules, self._yielding)]

    def read(self, reply: Any) -> claims.Claimed | None:
        """What the answer to `command` means: a claim that is ours now, or None."""
        if not reply or text(reply[0]) == keys.wake(self.worker):
            return None  # the wait for a wake is over, with or without one
        answer = claims.read_reply(reply)
        self._look = answer.what if isinstance(answer, claims.Look) else None
        if isinstance(answer, claims.Claimed):
            self._registered = False
            with self._lock:
                self._held.add(answer.tag)
            if (why := self._judge.why_not(answer.needs)) is not None:
                self.bury(answer.tag, why)
                return None
            self._judge.ran(answer.needs)
            return answer
        if isinstance(answer, claims.Unjudged):
            for number, needs in answer.needs.items():
                self._judge.judge(number, needs)
        elif not isinstance(answer, claims.Look):
            self._idle = self._registered = True
            self._due_s = answer.due_s if isinstance(answer, claims.Idle) else None
            why = answer.why if isinstance(answer, claims.Refused) else None
            if why and why != self._refused:
                logger.info("may not claim: %s", why, extra={"action": "claim_refused"})
            self._refused = why
        return None

    def promote(self) -> int:
        """Put delayed messages that are due into their lists; how many."""
        return self._try(claims.promote, self._client) or 0

    def delay(self, claimed: claims.Claimed, due: float) -> bool:
        """Keep a message that was claimed before its time, `due` in s since the epoch; False when it is due."""
        done = self._try(
            claims.delay, self._client, claimed.list, claimed.envelope, claimed.tag, due, worker=self.worker
        )
        if done is None:
            # Nobody knows whether it is: not ours to run. If it is, handing back changes nothing.
            self.hand_back(claimed.tag, counts=False)
            return True
        if not done:
            return False
        with self._lock:
            self._held.discard(claimed.tag)
        return True

    def pause(self) -> None:
        """Wait a moment before the next claim: Redis would not run this one."""
        self._idle, self._due_s = True, None

    def ack(self, tag: str) -> None:
        """The job of a claim is done; what `ended` was told of it is written down in the same step."""
        with self._lock:
            ended = self._ended.pop(tag, claims.Ended())
        self._let_go(tag, partial(claims.ack, ended=ended))

    def ended(self, tag: str, ended: claims.Ended) -> None:
        """How the run of a claim ended; to be told before its ack."""
        with self._lock:
            self._ended[tag] = ended

    def hand_back(self, tag: str, *, counts: bool, preempted: bool = False) -> None:
        """Give a claim back to the front of its queue; `counts`: as a delivery, `preempted`: as a preemption."""
        most = self._settings.max_deliveries
        self._let_go(tag, partial(claims.hand_back, counts=counts, max_deliveries=most, preempted=preempted))

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

    def tick(self, *, tends: bool) -> None:
        """What a thread of the worker does now and then, whatever its event loop is busy with.

        `tends`: it is the one that promotes for all.
        """
        self.flush()
        if tends:
            self.promote()

    def closed(self) -> holds.Closed:
        """What is closed to this worker now. Raises BrokerUnavailable."""
        with mapped_errors(self._settings):
            return holds.closed_to(self._client, self.worker)

    def forget(self) -> list[str]:
        """The lease was lost: what was held is another's now. Returns the tags."""
        # Lost with all that Redis knew, perhaps, without a cut of any connection: FLUSHALL.
        self._judge.forget()
        with self._lock:
            tags, self._held, self._outbox = list(self._held), set(), []
            self._ended.clear()
        return tags

    def _try_store(self, call: Any, *args: Any) -> Any:
        return self._try(call, self._client, *args)

    def _try(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        """The call's answer, or None while Redis is away."""
        try:
            with mapped_errors(self._settings):
                return call(*args, **kwargs)
        except BrokerUnavailable as exc:
            name = getattr(call, "func", call).__name__  # of a partial, its function's
            logger.warning("%s waits for Redis: %s", name, exc, extra={"action": "outbox"})
            return None
