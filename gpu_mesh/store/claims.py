"""Claims: what a worker took, and how it lets go. Typed faces of claim.lua and its kin (DESIGN §5, §6)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from gpu_mesh.domain.claim import Rules
from gpu_mesh.store import keys
from gpu_mesh.store.scripts import script, source

__all__ = [
    "CLAIM_HEADER",
    "Again",
    "ClaimReply",
    "Claimant",
    "Claimed",
    "Idle",
    "Reaped",
    "Refused",
    "Unjudged",
    "ack",
    "bury",
    "claim_arguments",
    "claim_sha",
    "delay",
    "hand_back",
    "holds",
    "load",
    "promote",
    "rank",
    "read_reply",
    "reap",
    "renew",
    "wake",
]

#: Message header with which a job's process knows its claim; set by the worker that claims, never sent.
CLAIM_HEADER = "mesh_claim"
#: Messages of strangers that one claim indexes at most: about 3 ms of Redis's time.
INDEXED_AT_ONCE = 500
#: Claims that one call gives back at most.
REAPED_AT_ONCE = 200
#: Delayed messages that one call puts into their lists at most.
PROMOTED_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who claims, and what the caller knows of itself. Needs are named by their numbers in the store."""

    worker: str
    node: str
    queues: Sequence[str]
    #: Tags of the claims it knows it holds.
    held: frozenset[str]
    fits: frozenset[str]
    misfits: frozenset[str]
    #: Needs whose model is loaded, and needs of no model.
    loaded: frozenset[str]
    modelless: frozenset[str]


@dataclass(frozen=True, slots=True)
class Claimed:
    """A message that is this worker's now. `envelope` is as its sender wrote it."""

    tag: str
    envelope: str
    #: The Redis list it came from, and its queue.
    list: str
    queue: str
    #: How often it was handed out, this time included.
    deliveries: int
    #: When it was sent, s by Redis's clock.
    at: float
    needs: str


@dataclass(frozen=True, slots=True)
class Unjudged:
    """Needs the caller must judge before it claims again: number → JSON."""

    needs: dict[str, str]


@dataclass(frozen=True, slots=True)
class Refused:
    """The worker may not claim: its lease is over (`lease`), or it is cordoned."""

    why: str


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing for it; a publish will wake it."""


@dataclass(frozen=True, slots=True)
class Again:
    """There was more to index than one call does: claim again."""


ClaimReply = Claimed | Unjudged | Refused | Idle | Again


@dataclass(frozen=True, slots=True)
class Reaped:
    """A claim taken from a dead worker: `outcome` is `requeued` or `dead`."""

    worker: str
    task_id: str
    outcome: str


def load(client: redis.Redis) -> None:
    """Have Redis know the claim script, which is called by its SHA alone."""
    client.script_load(source("claim"))


def claim_sha(client: redis.Redis) -> str:
    """SHA of the claim script."""
    return str(script(client, "claim").sha)


def claim_arguments(claimant: Claimant, rules: Rules) -> list[str]:
    """ARGV of claim.lua."""
    return [
        claimant.worker,
        claimant.node,
        "\t".join(sorted(claimant.held)),
        _numbers(claimant.fits),
        _numbers(claimant.misfits),
        _numbers(claimant.loaded) if claimant.loaded else "",
        _numbers(claimant.modelless),
        repr(rules.horizon_s),
        repr(rules.affinity_s),
        str(INDEXED_AT_ONCE),
        *claimant.queues,
    ]


def _numbers(needs: Iterable[str]) -> str:
    return f",{','.join(sorted(needs))},"


def read_reply(reply: Sequence[Any]) -> ClaimReply:
    """What claim.lua answered."""
    # A stranger's bytes need not be UTF-8; tags and names are ASCII.
    kind, *rest = (part.decode(errors="replace") if isinstance(part, bytes) else part for part in reply)
    if kind in ("claim", "lost"):
        tag, envelope, name, deliveries, at, needs = rest
        return Claimed(tag, envelope, name, keys.queue_of(name), int(deliveries), float(at), needs)
    if kind == "needs":
        return Unjudged(dict(zip(rest[::2], rest[1::2], strict=True)))
    if kind == "refused":
        return Refused(rest[0])
    return Idle() if kind == "none" else Again()


def ack(client: redis.Redis, worker: str, tag: str) -> bool:
    """Let a claim go, its job done. False when it was not this worker's any more."""
    return bool(script(client, "ack")(args=[worker, tag]))


def hand_back(client: redis.Redis, worker: str, tag: str, *, counts: bool, max_deliveries: int) -> bool:
    """Give a claim back to the front of its list; `counts`: as a delivery. False when it was not this worker's.

    What was delivered `max_deliveries` times goes to the dead letters instead.
    """
    ours = bool(script(client, "requeue")(args=[worker, tag, 0 if counts else 1, max_deliveries]))
    if ours:
        wake(client, 1)
    return ours


def bury(client: redis.Redis, worker: str, tag: str, *, why: str) -> bool:
    """Move a claim to the dead letters, with the reason. False when it was not this worker's."""
    return bool(script(client, "bury")(args=[worker, tag, why]))


def delay(client: redis.Redis, name: str, envelope: str, tag: str, due: float, *, worker: str = "") -> bool:
    """Keep a message of the list `name` until `due`, s since the epoch; `worker` names who claimed it.

    False when it is due already: nothing was changed.
    """
    return bool(script(client, "delay")(args=[name, envelope, tag, repr(due), worker]))


def promote(client: redis.Redis) -> tuple[int, float | None]:
    """Put delayed messages that are due into their lists: how many, and seconds until the next is due."""
    promoted, next_ms = script(client, "promote")(args=[PROMOTED_AT_ONCE])
    if promoted:
        wake(client, int(promoted))
    return int(promoted), None if int(next_ms) < 0 else int(next_ms) / 1000


def holds(client: redis.Redis, worker: str, tag: str) -> bool:
    """Whether the claim is this worker's still."""
    return bool(client.hexists(keys.claims(worker), tag))


def renew(client: redis.Redis, worker: str, ttl_s: float, *, anew: bool = False) -> bool:
    """Renew a worker's lease, or with `anew` begin one. False when it had ended: its claims may run elsewhere."""
    return bool(script(client, "renew")(args=[worker, ttl_s, int(anew)]))


def reap(client: redis.Redis, *, max_deliveries: int, worker: str | None = None) -> list[Reaped]:
    """Give back what workers hold whose lease ended; with `worker` what that one holds, whatever its lease."""
    found: list[Reaped] = []
    while True:
        told = script(client, "reap")(args=[worker or "", max_deliveries, REAPED_AT_ONCE])
        found += [Reaped(*map(str, told[i : i + 3])) for i in range(0, len(told), 3)]
        if len(told) < 3 * REAPED_AT_ONCE:
            break
    if found:
        wake(client, len(found))
    return found


def wake(client: redis.Redis, count: int) -> int:
    """Wake the `count` workers that are idle longest; how many there were."""
    return int(script(client, "wake")(args=[count]))


def rank(client: redis.Redis, worker: str, needs: str, scores: dict[str, float]) -> None:
    """Enter a worker's node score for needs it fits, by mode of placement: publishing wakes the best idle one."""
    pipe = client.pipeline(transaction=False)
    for mode, score in scores.items():
        pipe.zadd(keys.ranking(needs, mode), {worker: score})
    pipe.execute()
