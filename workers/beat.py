"""Beat without a single point of failure: several may run in a mesh, one leads, and nothing is sent twice (DESIGN §8).

The schedule is the leader's own; Redis only holds who leads and when each entry was last due. So a beat of an older
version that stands by changes nothing, and what left the schedule is not sent any more.
"""

from __future__ import annotations

import copy
import logging
import math
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import beat
from celery.schedules import schedule as interval

from beat_schedule import SCHEDULE
from gpu_mesh.domain.firing import counted_until
from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.settings import settings
from gpu_mesh.store import beat as store
from gpu_mesh.store.client import broker_error, connect, mapped_errors

__all__ = ["HOLD_S", "Scheduler"]

logger = logging.getLogger(__name__)

#: A leader that is silent for so long is followed by another, s.
HOLD_S = 5.0
#: How often it is asked who leads, and Redis's time, s.
LEAD_EVERY_S = 1.0
#: How long Redis may take to answer, s: less than HOLD_S.
ANSWER_S = 2.0
#: A clock that is wrong by more was set back, s.
STEP_S = 2.0
#: Between two looks at an entry, s.
SHORTEST_S = 0.01
#: When an entry is looked at again whose next time cannot be told, s.
BROKEN_S = 60.0


class Scheduler(beat.Scheduler):
    """Celery's scheduler with its memory in Redis. Its clock is Redis's, whatever the clocks of two machines say."""

    max_interval = LEAD_EVERY_S

    def __init__(self, app: Any, **options: Any) -> None:
        self._me = f"beat@{settings().node_name}|{uuid.uuid4().hex[:12]}"
        self._client = connect(settings(), timeout_s=ANSWER_S, retries=0)
        #: Redis's time minus this process's monotonic clock; when it was asked, by the latter.
        self._ahead = time.time() - time.monotonic()
        self._asked = -math.inf
        self._leader = ""
        #: When each entry is looked at next.
        self._next: dict[str, float] = {}
        #: What was begun to be sent, and may have been: it is sent again as the same.
        self._begun: dict[str, float] = {}
        self._away = False
        super().__init__(app, **options)

    def setup_schedule(self) -> None:
        """Take the schedule of the app, with the mesh's own entries, as it is in this version."""
        self.install_default_entries(self.data)
        for name, found in _entries(self.app.conf.beat_schedule, SCHEDULE).items():
            try:
                entry = self.Entry(**dict(found, name=name, app=self.app))
            except Exception:
                logger.exception("entry %r of the schedule is not understood", name, extra={"action": "beat"})
                continue
            entry.schedule = copy.copy(entry.schedule)
            entry.schedule.nowfun = entry.schedule.nowfun or self._now
            self.schedule[name] = entry

    def tick(self, *_: Any, **__: Any) -> float:
        """Send what is due, as the leader; how long to sleep, s. While Redis is away, wait for it."""
        try:
            with mapped_errors(settings()):
                leads = self._lead()
                if leads:
                    self._send_due()
        except BrokerUnavailable as exc:
            self._asked = -math.inf
            if not self._away:
                self._away = True
                logger.warning("beat waits: %s", exc, extra={"action": "beat"})
            return LEAD_EVERY_S
        if self._away:
            self._away = False
            logger.info("beat goes on", extra={"action": "beat"})
        first = min(self._next.values(), default=math.inf) if leads else math.inf
        return max(0.0, min(self.max_interval, LEAD_EVERY_S, first - self._clock()))

    def close(self) -> None:
        """Another one may lead at once. Called twice at a stop."""
        leads, self._leader = self._leader == self._me, ""
        try:
            if not leads:
                return
            with mapped_errors(settings()), connect(settings(), timeout_s=ANSWER_S, retries=0) as client:
                store.leave(client, self._me)
        except BrokerUnavailable as exc:
            logger.info("left without a word: %s", exc, extra={"action": "beat"})
        finally:
            super().close()

    @property
    def info(self) -> str:
        """What the banner says."""
        return f"    . lead -> for {HOLD_S:g} s, as {self._me}"

    def _clock(self) -> float:
        """Redis's time, s since the epoch."""
        return time.monotonic() + self._ahead

    def _now(self) -> datetime:
        return self._moment(self._clock())

    def _moment(self, seconds: float) -> datetime:
        return datetime.fromtimestamp(seconds, UTC).astimezone(self.app.timezone)

    def _lead(self) -> bool:
        """Whether this one leads, asked once a second."""
        if time.monotonic() - self._asked < LEAD_EVERY_S * 0.9:
            return self._leader == self._me
        before = self._clock()
        found = store.lead(self._client, self._me, HOLD_S)
        self._asked = time.monotonic()
        self._ahead = found.now - self._asked
        leads = found.beat == self._me
        if leads and (found.begins or self._leader != self._me or found.now < before - STEP_S):
            self._begin()
        if found.beat != self._leader:
            words = "beat leads" if leads else f"beat stands by: {found.beat.partition('|')[0]} leads"
            logger.info("%s", words, extra={"action": "beat"})
            self._leader = found.beat
        return leads

    def _begin(self) -> None:
        """Go on from what was sent, by whomever."""
        known, now = store.runs(self._client), self._clock()
        lasts = {name: known.get(name, self._own_last(name, now)) for name in self.schedule}
        # Where the clock stepped back, what was sent in the future would not be sent until then.
        lasts = {name: now if last > now + STEP_S else last for name, last in lasts.items()}
        changed = {name: last for name, last in lasts.items() if known.get(name) != last}
        store.begin(self._client, self._me, changed, known.keys() - lasts.keys())
        self._begun.clear()
        for name, last in lasts.items():
            self.schedule[name].last_run_at = self._moment(last)
        self._next = dict.fromkeys(lasts, now)

    def _own_last(self, name: str, now: float) -> float:
        """From when an entry counts that Redis knows nothing of: it may have lost what this one knows."""
        return float(self.schedule[name].last_run_at.timestamp()) if name in self._next else now

    def _send_due(self) -> None:
        now = self._clock()
        for name in [name for name, at in self._next.items() if at <= now]:
            entry = self.schedule[name]
            try:
                is_due, wait = entry.is_due()
            except Exception:
                logger.exception("the next time of %r cannot be told", name, extra={"action": "beat"})
                self._next[name] = now + BROKEN_S
                continue
            if is_due or name in self._begun:
                self._fire(entry, now)
                wait = SHORTEST_S
            self._next[name] = self._clock() + (wait or SHORTEST_S)

    def _fire(self, entry: Any, now: float) -> None:
        """Send it; that it was is noted by the script that puts the message into its queue."""
        last = entry.last_run_at.timestamp()
        due = self._begun.setdefault(entry.name, counted_until(last, now, _every_s(entry.schedule)))
        firing = store.Firing(self._me, entry.name, due).to_header()
        sent = copy.copy(entry)
        sent.options = {**entry.options, "headers": {**(entry.options.get("headers") or {}), store.FIRING: firing}}
        beat.logger.info("Scheduler: Sending due task %s (%s)", entry.name, entry.task)
        self.app.broker_answered()  # as it said who leads
        try:
            self.apply_async(sent, producer=self.producer, advance=False)
        except Exception as exc:
            if (error := broker_error(settings(), exc)) is not None:
                self._disconnect()
                raise error from exc
            logger.exception("entry %r cannot be sent", entry.name, extra={"action": "beat"})
            store.take(self._client, firing)
        del self._begun[entry.name]
        entry.last_run_at = self._moment(due)
        entry.total_run_count += 1

    def _ensure_connected(self) -> Any:
        # Celery's would go on for ever, and meanwhile another one may lead.
        return self.connection.ensure_connection(max_retries=1, interval_start=0)

    def _disconnect(self) -> None:
        self.__dict__.pop("producer", None)
        if (connection := self.__dict__.pop("connection", None)) is not None:
            try:
                connection.release()
            except Exception:
                logger.debug("a connection not closed", exc_info=True, extra={"action": "beat"})


def _entries(given: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The app's entries, and the mesh's own where an application's `beat_schedule = {…}` put them out."""
    tasks = {_task(entry) for entry in given.values()}
    missing = {name: entry for name, entry in own.items() if entry["task"] not in tasks}
    return {**given, **{f"mesh.{name}" if name in given else name: entry for name, entry in missing.items()}}


def _task(entry: Any) -> Any:
    return entry.get("task") if isinstance(entry, Mapping) else getattr(entry, "task", None)


def _every_s(schedule: Any) -> float | None:
    """The seconds of a plain interval; None for every other schedule."""
    every = schedule.run_every if isinstance(schedule, interval) and not schedule.relative else None
    return every.total_seconds() if isinstance(every, timedelta) else None
