"""Who was asked to yield, and what was counted of it: typed faces of seek.lua and its kin (DESIGN §7)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from gpu_mesh.store import keys
from gpu_mesh.store.replies import text
from gpu_mesh.store.scripts import script

__all__ = ["SETTLE_S", "Asked", "Unjudged", "counts", "hear", "parse", "seek", "spare", "times", "waiting"]

#: Age from which a waiting message counts for a look, s: a younger one may be on its way to a worker that was woken.
SETTLE_S = 0.05
#: Messages of strangers that one look indexes at most.
INDEXED_AT_ONCE = 500
#: How long it is remembered how often a task was preempted, s: as long as its checkpoint by default.
REMEMBERED_S = 604_800


@dataclass(frozen=True, slots=True)
class Unjudged:
    """Needs the caller must judge before it looks again: number → JSON."""

    needs: dict[str, str]


@dataclass(frozen=True, slots=True)
class Asked:
    """Jobs of the caller's that are asked to yield: delivery tag → queue for which. `again`: younger messages wait."""

    jobs: Mapping[str, str] = field(default_factory=dict)
    again: bool = False


def seek(
    client: redis.Redis, worker: str, *, fits: Iterable[str], misfits: Iterable[str], settle_s: float = SETTLE_S
) -> Asked | Unjudged:
    """Look whether jobs should yield, and ask those that should, whosever they are."""
    args = [worker, round(settle_s * 1e6), _numbers(fits), _numbers(misfits), INDEXED_AT_ONCE]
    kind, *rest = map(text, script(client, "seek")(args=args))
    if kind == "needs":
        return Unjudged(dict(zip(rest[::2], rest[1::2], strict=True)))
    again, *told = rest
    return Asked(dict(zip(told[::2], told[1::2], strict=True)), again == "1")


def hear(client: redis.Redis, worker: str, timeout_s: float) -> tuple[str, str] | None:
    """What was asked of the worker since, or is within `timeout_s`: a job's delivery tag and the queue for which.

    The tag is empty where the worker is to look by itself; None when nothing was asked.
    """
    # A list keeps what is said while nobody listens.
    told = client.brpop([keys.asks(worker)], timeout=timeout_s)
    if told is None:
        return None
    tag, _, queue = text(told[1]).partition("\t")
    return tag, queue


def spare(client: redis.Redis, worker: str, tag: str, queue: str) -> None:
    """That job is not to be asked: its task says so, where its message did not."""
    script(client, "spare")(args=[worker, tag, queue])


def counts(client: redis.Redis) -> dict[tuple[str, str], int]:
    """How many jobs were preempted since the mesh began, by queue and worker. What is no count is left out."""
    return parse(client.hgetall(keys.PREEMPTIONS))


def parse(held: Mapping[Any, Any]) -> dict[tuple[str, str], int]:
    """The same, of what Redis holds."""
    told = {text(name): text(count) for name, count in held.items()}
    found = {name: int(count) for name, count in told.items() if count.isdecimal()}
    return {(queue, worker): found[name] for name in sorted(found) for queue, _, worker in [name.partition("|")]}


def times(client: redis.Redis, tags: Sequence[str]) -> dict[str, int]:
    """How often each of these messages was preempted; without those that were not."""
    if not tags:
        return {}
    told = client.mget([keys.preempted(tag) for tag in tags])
    return {tag: int(count) for tag, count in zip(tags, told, strict=True) if count is not None}


def waiting(client: redis.Redis) -> dict[str, int]:
    """How often each message that was given back, and waits, was preempted; without those that never were."""
    return times(client, sorted(map(text, client.hkeys(keys.AGAIN))))


def _numbers(needs: Iterable[str]) -> str:
    return f",{','.join(sorted(needs))},"
