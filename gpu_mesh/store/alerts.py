"""Alerts as Redis keeps them: what stands, what is over, silences, and what was told of each rule lately.

A post and a clear are one transaction: of several processes that post the same at once one is told. Times are Redis's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar
from uuid import uuid4

import redis

from gpu_mesh.domain import alerts as rules
from gpu_mesh.domain.alerts import Alert, Change, Level, Silence, Standing, Window
from gpu_mesh.store import keys, outbox, server
from gpu_mesh.store.replies import text

__all__ = ["Past", "clear", "parse", "past", "post", "silence", "silences", "standing", "summarise", "unsilence"]

#: Alerts that are over, kept.
PAST_KEPT = 1000
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Past:
    """An alert that is over, its level the highest it had. Times in s since the epoch."""

    rule: str
    subject: str
    level: str
    text: str
    remedy: str
    raised: float
    recovered: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return asdict(self)


def post(client: redis.Redis, alert: Alert) -> Change:
    """Enter an alert; what that changed. Its notices are in the outbox by then."""
    pipe = client.pipeline(transaction=False)
    pipe.hget(keys.ALERTS, _field(alert.rule, alert.subject))
    pipe.time()
    raw, time = pipe.execute()
    known = _loaded(raw, Standing.from_dict)
    if known is not None and rules.is_known(known, alert, server.stamp(*time)):
        return Change(standing=known)

    def change(held: Standing | None, now: float, windows: dict[Level, Window], quiet: list[Silence]) -> Change:
        return rules.posted(held, alert, now, windows, quiet)

    made = _change(client, alert.rule, alert.subject, change)
    assert made is not None
    return made


def clear(client: redis.Redis, rule: str, subject: str, words: str) -> Change | None:
    """Put an alert that stands into the history; None where none stands."""
    # Most clears meet nothing: one question, no transaction.
    if not client.hexists(keys.ALERTS, _field(rule, subject)):
        return None

    def change(held: Standing | None, now: float, windows: dict[Level, Window], _: list[Silence]) -> Change | None:
        return None if held is None else rules.cleared(held, words, now, windows)

    return _change(client, rule, subject, change)


def _change(
    client: redis.Redis,
    rule: str,
    subject: str,
    decide: Callable[[Standing | None, float, dict[Level, Window], list[Silence]], Change | None],
) -> Change | None:
    field, rule = _field(rule, subject), rule[: rules.NAME_KEPT]
    made: Change | None = None

    def transact(pipe: redis.client.Pipeline) -> None:
        nonlocal made
        held = _loaded(pipe.hget(keys.ALERTS, field), Standing.from_dict)
        now = server.now(pipe)
        windows = _windows(pipe.hget(keys.ALERT_RATES, rule))
        made = decide(held, now, windows, silences(pipe))
        takes = made is not None and outbox.takes(pipe)
        pipe.multi()
        if made is None:
            return
        if made.standing is not None:
            pipe.hset(keys.ALERTS, field, json.dumps(made.standing.to_dict()))
        elif made.past is not None and made.past.level > Level.INFO:
            pipe.hdel(keys.ALERTS, field)
        if made.past is not None:
            pipe.lpush(keys.ALERTS_PAST, json.dumps(_past(made.past, now).to_dict()))
            pipe.ltrim(keys.ALERTS_PAST, 0, PAST_KEPT - 1)
        if made.windows:
            pipe.hset(keys.ALERT_RATES, rule, _windows_text({**windows, **made.windows}))
        if takes:
            outbox.put(pipe, made.notices, now)

    client.transaction(transact, keys.ALERTS, keys.ALERT_RATES)
    return made


def summarise(client: redis.Redis) -> int:
    """Tell in one line each what was held back until now; how many lines."""
    if not client.exists(keys.ALERT_RATES):
        return 0
    count = 0

    def transact(pipe: redis.client.Pipeline) -> None:
        nonlocal count
        now, found = server.now(pipe), pipe.hgetall(keys.ALERT_RATES)
        takes = outbox.takes(pipe)
        pipe.multi()
        count = 0
        for rule, held in found.items():
            windows = _windows(held)
            ended, notices = rules.summaries(text(rule), windows, now)
            left = {level: window for level, window in windows.items() if level not in ended}
            if left and ended:
                pipe.hset(keys.ALERT_RATES, rule, _windows_text(left))
            elif not left:
                pipe.hdel(keys.ALERT_RATES, rule)
            if takes:
                outbox.put(pipe, notices, now)
                count += len(notices)

    client.transaction(transact, keys.ALERT_RATES)
    return count


def standing(client: redis.Redis) -> list[Standing]:
    """Alerts that stand, the gravest first, among equals the newest."""
    return parse(client.hvals(keys.ALERTS))


def parse(told: Iterable[Any]) -> list[Standing]:
    """The same, of what Redis holds."""
    held = (_loaded(found, Standing.from_dict) for found in told)
    return sorted((one for one in held if one is not None), key=lambda one: (-one.level, -one.since))


def past(client: redis.Redis, limit: int = PAST_KEPT) -> list[Past]:
    """Alerts that are over, the one that ended last first."""
    held = (_loaded(found, _read_past) for found in client.lrange(keys.ALERTS_PAST, 0, limit - 1))
    return [one for one in held if one is not None]


def silence(client: redis.Redis, rule: str, subject: str, until: float | None, by: str, why: str) -> Silence:
    """Keep what matches from being told until then."""
    made = Silence(
        id=uuid4().hex[:6], rule=rule, subject=subject, until=until, since=server.now(client), by=by, why=why
    )
    client.hset(keys.SILENCES, made.id, json.dumps(made.to_dict()))
    return made


def silences(client: redis.Redis) -> list[Silence]:
    """All silences, those whose end has come too, the oldest first."""
    held = (_loaded(found, _silence) for found in client.hvals(keys.SILENCES))
    return sorted((one for one in held if one is not None), key=lambda one: one.since)


def unsilence(client: redis.Redis, *ids: str) -> int:
    """Take silences back; how many there were."""
    return int(client.hdel(keys.SILENCES, *ids)) if ids else 0


def _field(rule: str, subject: str) -> str:
    return f"{rule[: rules.NAME_KEPT]}|{subject[: rules.NAME_KEPT]}"


def _past(one: Standing, now: float) -> Past:
    return Past(one.rule, one.subject, one.top.name, one.text, one.remedy, one.since, now)


def _read_past(found: Mapping[str, Any]) -> Past:
    return Past(**{name: found[name] for name in Past.__slots__})


def _silence(found: Mapping[str, Any]) -> Silence:
    return Silence(**{name: found[name] for name in Silence.__slots__ if name in found})


def _windows(held: object) -> dict[Level, Window]:
    def read(found: Mapping[str, Any]) -> dict[Level, Window]:
        return {Level[name]: Window(**{**one, "held": tuple(one["held"])}) for name, one in found.items()}

    return _loaded(held, read) or {}


def _windows_text(windows: Mapping[Level, Window]) -> str:
    return json.dumps({level.name: asdict(window) for level, window in windows.items()})


def _loaded(held: object, kind: Callable[[Mapping[str, Any]], T]) -> T | None:
    """None for what is none of ours."""
    try:
        return None if held is None else kind(json.loads(text(held)))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
