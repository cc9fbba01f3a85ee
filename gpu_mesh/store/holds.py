"""What realtime jobs hold back now, and what is closed to a worker for whatever reason (SPEC R3, DESIGN §7)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import redis

from gpu_mesh.domain.holds import MESH, REALTIME_QUEUES, node_of
from gpu_mesh.store import keys
from gpu_mesh.store.claims import read_record
from gpu_mesh.store.replies import text
from gpu_mesh.store.scripts import script

__all__ = ["Closed", "Hold", "Leave", "closed_to", "holds", "interactive"]


@dataclass(frozen=True, slots=True)
class Hold:
    """A scope in which realtime jobs hold `ai-batch` back: `*`, a node or a worker."""

    scope: str
    #: Since when without a break, as far as the jobs that still run can tell, s by Redis's clock.
    since: float
    #: The workers that run these jobs, the one that began first in front.
    workers: tuple[str, ...]
    #: The ids of these jobs, in the same order.
    tasks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Leave:
    """What a worker runs is to yield, within that time, for it is cordoned (store/cordons)."""

    within_s: float
    why: str


@dataclass(frozen=True, slots=True)
class Closed:
    """What is closed to a worker."""

    #: By a gate, or held back by a realtime job.
    queues: frozenset[str] = frozenset()
    leave: Leave | None = None


def closed_to(client: redis.Redis, worker: str) -> Closed:
    """What is closed to a worker now."""
    leave, *queues = map(text, script(client, "closed")(args=[worker, node_of(worker)]))
    within, _, why = leave.partition(" ")
    return Closed(frozenset(queues), Leave(float(within), why) if leave else None)


def holds(client: redis.Redis) -> list[Hold]:
    """Where realtime jobs hold `ai-batch` back now; the mesh first, then by name."""
    workers = [text(name) for name in client.zrange(keys.LEASES, 0, -1)]
    scopes = [MESH, *sorted({scope for worker in workers for scope in (worker, node_of(worker)) if scope})]
    pipe = client.pipeline(transaction=False)
    for scope in scopes:
        pipe.zrange(keys.realtime(scope), 0, -1, withscores=True)
    told = dict(zip(scopes, pipe.execute(), strict=True))
    jobs = [
        (scope, *text(member).partition("\t")[::2], since)
        for scope, members in told.items()
        for member, since in members
    ]
    for _, worker, tag, _ in jobs:
        pipe.hget(keys.claims(worker), tag)
    found: dict[str, Hold] = {}
    # What no claim stands behind holds nothing back, see lua/_holds.lua.
    for (scope, worker, _, since), claim in zip(jobs, pipe.execute(), strict=True):
        if claim:
            hold = found.get(scope, Hold(scope, since / 1e6, (), ()))
            task = read_record(text(claim)).task_id
            found[scope] = replace(hold, workers=(*hold.workers, worker), tasks=(*hold.tasks, task))
    return list(found.values())


def interactive(client: redis.Redis, workers: Iterable[str]) -> frozenset[str]:
    """The workers whose devices serve a job of the interactive tier now: these, and siblings that serve with them."""
    names = list(workers)
    pipe = client.pipeline(transaction=False)
    for worker in names:
        pipe.hkeys(keys.claims(worker))
    held = [(worker, text(tag)) for worker, tags in zip(names, pipe.execute(), strict=True) for tag in tags]
    jobs = [(worker, tag) for worker, tag in held if tag[0] not in "=+"]
    for worker, tag in jobs:
        pipe.hmget(keys.claims(worker), tag, f"+{tag}")
    found: set[str] = set()
    for (worker, _), (claim, siblings) in zip(jobs, pipe.execute(), strict=True):
        if claim and keys.queue_of(read_record(text(claim)).list) in REALTIME_QUEUES:
            found |= {worker, *filter(None, text(siblings or "").split(","))}
    return frozenset(found)
