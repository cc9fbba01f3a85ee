"""All that is measured of the mesh, read in one go (SPEC A4).

Two round trips, three where runs ended since the last time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import redis
from redis.exceptions import NoScriptError

from gpu_mesh.domain.alerts import Standing
from gpu_mesh.domain.availability import Watch
from gpu_mesh.domain.queues import Band, list_names
from gpu_mesh.store import (
    alerts,
    availability,
    census,
    cordons,
    counters,
    gates,
    health,
    keys,
    nodes,
    preemption,
    server,
    ticks,
    windows,
)
from gpu_mesh.store.availability import Outage
from gpu_mesh.store.census import Memory
from gpu_mesh.store.claims import Record, read_record
from gpu_mesh.store.counters import Counts
from gpu_mesh.store.replies import text
from gpu_mesh.store.scripts import script, sha
from gpu_mesh.store.ticks import Tick
from gpu_mesh.store.windows import Plan

__all__ = ["Holding", "Scrape", "read"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Holding:
    """A claim that a worker holds, and its siblings."""

    worker: str
    siblings: tuple[str, ...]
    claim: Record


@dataclass(frozen=True, slots=True)
class Scrape:
    """What Redis held at `now`, s since the epoch by its clock."""

    now: float
    #: By queue: how many wait, and since when the one does that waits longest, s since the epoch.
    waiting: Mapping[str, int]
    oldest: Mapping[str, float]
    delayed: int
    dead: int
    counts: Counts
    #: What scripts counted, by field, see keys.STATS.
    stats: Mapping[str, int]
    #: By queue and worker.
    preempted: Mapping[tuple[str, str], int]
    gates: Sequence[gates.Gate]
    #: Nodes and workers that claim nothing, and why.
    cordoned: Mapping[str, str]
    plan: Plan | None
    #: Worker → end of its lease, s since the epoch; `grace`: until when none counts as ended.
    leases: Mapping[str, float]
    grace: float
    nodes: Sequence[nodes.NodeEntry]
    checked: Mapping[str, health.Checked]
    alerts: Sequence[Standing]
    #: Notices of alerts that no channel has taken yet.
    notices: int
    outage: Outage | None
    watch: Watch | None
    #: The beat that leads, and when each of its entries was due last.
    beat: str | None
    runs: Mapping[str, float]
    ticks: Mapping[str, Tick]
    #: None where Redis does not tell.
    memory: Memory | None
    clients: int | None
    holdings: Sequence[Holding]
    #: Scopes in which realtime jobs hold ai-batch back.
    held_back: Sequence[str]


def read(client: redis.Redis, queues: Sequence[str]) -> Scrape:
    """What there is of these queues and of the mesh. Keys of strangers count as empty."""
    # A Redis that takes no writes tells what was counted before.
    with suppress(redis.ResponseError):
        counters.fold(client)
    told = iter(_ask(client, queues))
    now = server.stamp(*next(told))
    waiting = {queue: sum(_number(next(told)) for _ in list_names(queue)) for queue in queues}
    ages = {queue: [since for _ in Band if (since := _since(next(told))) is not None] for queue in queues}
    delayed, dead, notices = (_number(next(told)) for _ in range(3))
    stats = {text(name): _number(count) for name, count in _mapping(next(told)).items()}
    preempted = preemption.parse(_mapping(next(told)))
    closed, state = gates.parse(_mapping(next(told))), _mapping(next(told))
    plan, _ = windows.parse(_mapping(next(told)))
    leases = {text(name): float(end) / 1e6 for name, end in _sequence(next(told))}
    registered, checked = nodes.parse(_mapping(next(told)), now), health.parse(_mapping(next(told)))
    standing = alerts.parse(_sequence(next(told)))
    grace, outage, watch, beat = (next(told) for _ in range(4))
    runs = {text(name): due for name, at in _mapping(next(told)).items() if (due := _float(at)) is not None}
    ticked = ticks.parse(_mapping(next(told)))
    memory, clients = _mapping(next(told)), _mapping(next(told))
    held, holding, counted = _serving(client, next(told))
    return Scrape(
        now=now,
        waiting=waiting,
        oldest={queue: min(found) for queue, found in ages.items() if found},
        delayed=delayed,
        dead=dead,
        counts=_counts(text(counted)),
        stats=stats,
        preempted=preempted,
        gates=[gate for gate in closed if gate.until is None or gate.until > now],
        cordoned=cordons.parse_state(state),
        plan=plan,
        leases=leases,
        grace=(_float(grace) or 0.0) / 1e6,
        nodes=registered,
        checked=checked,
        alerts=standing,
        notices=notices,
        outage=availability.parse_outage(outage),
        watch=availability.parse_watch(watch),
        beat=None if beat is None else text(beat),
        runs=runs,
        ticks=ticked,
        memory=census.memory_of(memory) if memory else None,
        clients=_number(clients["connected_clients"]) if "connected_clients" in clients else None,
        holdings=list(_holdings(held)),
        held_back=[text(scope) for scope in holding],
    )


def _ask(client: redis.Redis, queues: Sequence[str]) -> list[Any]:
    pipe = client.pipeline(transaction=False)
    pipe.time()
    for queue in queues:
        for name in list_names(queue):
            pipe.llen(name)
    for queue in queues:
        for band in Band:
            pipe.zrange(keys.oldest(queue, band), 0, 0, withscores=True)
    pipe.zcard(keys.DELAYED)
    pipe.llen(keys.DEAD)
    pipe.hlen(keys.OUTBOX)
    for key in (keys.STATS, keys.PREEMPTIONS, keys.GATES, keys.STATE, keys.WINDOWS):
        pipe.hgetall(key)
    pipe.zrange(keys.LEASES, 0, -1, withscores=True)
    pipe.hgetall(keys.NODES)
    pipe.hgetall(keys.HEALTH)
    pipe.hvals(keys.ALERTS)
    for key in (keys.GRACE, keys.OUTAGE, keys.WATCH, keys.BEAT):
        pipe.get(key)
    pipe.hgetall(keys.BEAT_RUNS)
    pipe.hgetall(keys.TICKS)
    pipe.info("memory")
    pipe.info("clients")
    pipe.evalsha(sha("serving"), 0)
    return [_told(one) for one in pipe.execute(raise_on_error=False)]


def _told(reply: Any) -> Any:
    """None for what a stranger's key, or a Redis that does not let us ask, answers; the script is asked again."""
    if isinstance(reply, NoScriptError):
        return None
    if isinstance(reply, redis.ResponseError) and str(reply).startswith(("WRONGTYPE", "NOPERM", "unknown command")):
        return None
    if isinstance(reply, Exception):
        raise reply
    return reply


def _serving(client: redis.Redis, told: Any) -> tuple[list[Any], list[Any], Any]:
    held, holding, counted = told if told is not None else script(client, "serving")()
    return held, holding, counted


def _counts(told: str) -> Counts:
    parts, found = told.split("\0"), Counts()
    found.add(dict(zip(parts[::2], parts[1::2], strict=False)))
    return found


def _holdings(told: Sequence[Any]) -> Iterator[Holding]:
    for worker, claim, siblings in zip(*(told[i::3] for i in range(3)), strict=True):
        try:
            its = tuple(filter(None, text(siblings).split(",")))
            yield Holding(text(worker), its, read_record(text(claim)))
        except ValueError as exc:
            logger.debug("a claim of %s cannot be read: %s", worker, exc, extra={"action": "read_claim"})


def _since(told: Any) -> float | None:
    return float(told[0][1]) / 1e6 if told else None


def _mapping(told: Any) -> Mapping[Any, Any]:
    return told if isinstance(told, Mapping) else {}


def _sequence(told: Any) -> Sequence[Any]:
    return told or ()


def _float(told: Any) -> float | None:
    try:
        return float(text(told))
    except (ValueError, TypeError):
        return None


def _number(told: Any) -> int:
    try:
        return int(text(told or 0))
    except ValueError:
        return 0
