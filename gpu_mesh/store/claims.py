"""Claims: what a worker took, and how it lets go. Typed faces of claim.lua and its kin (DESIGN §5, §6)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from gpu_mesh.domain import preemption
from gpu_mesh.domain.claim import Rules
from gpu_mesh.domain.holds import PauseScope, scope_of
from gpu_mesh.domain.stats import Outcome
from gpu_mesh.store import keys
from gpu_mesh.store.preemption import REMEMBERED_S
from gpu_mesh.store.replies import text
from gpu_mesh.store.scripts import script, sha, source

__all__ = [
    "CLAIM_HEADER",
    "ClaimReply",
    "Claimant",
    "Claimed",
    "Ended",
    "Idle",
    "Look",
    "Record",
    "Refused",
    "Unjudged",
    "ack",
    "bury",
    "claim_arguments",
    "delay",
    "hand_back",
    "holds",
    "load",
    "promote",
    "read_record",
    "read_reply",
    "shas",
    "wake",
]

#: Message header with which a job's process knows its claim; set by the worker that claims, never sent.
CLAIM_HEADER = "mesh_claim"
#: Messages of strangers that one claim indexes at most: about 3 ms of Redis's time.
INDEXED_AT_ONCE = 500
#: How many finished tasks are remembered.
JOURNAL_KEPT = 10_000
#: Longest name of a model that is counted, characters.
MODEL_LENGTH = 200
_UNPRINTABLE = re.compile(r"[^ -~]")
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
    #: Needs of several devices: how many siblings, and the workers of those that would do.
    teams: Mapping[str, tuple[int, Sequence[str]]] = field(default_factory=dict)
    #: Whether Redis may have it as idle.
    idle: bool = True
    #: With the look script: `1` to look for strangers' messages whatever was done lately, or a list to mend.
    look: str = ""
    #: How far a realtime job that it claims holds batch work back.
    pause_scope: PauseScope = PauseScope.NODE


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
    #: Workers whose devices serve the job too, and the one that is woken first should this one fail ("": none).
    siblings: tuple[str, ...] = ()
    standby: str = ""
    #: Somebody took the task back.
    revoked: bool = False


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
    """Nothing for it; a publish will wake it. `due_s`: when the next delayed message is due, from now; None: there is
    none."""

    due_s: float | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """Claim again with the look script, and with this as `Claimant.look`."""

    what: str


ClaimReply = Claimed | Unjudged | Refused | Idle | Look


def load(client: redis.Redis) -> None:
    """Have Redis know the scripts that are called by their SHA alone."""
    for name in ("claim", "look"):
        client.script_load(source(name))


def shas() -> tuple[str, str]:
    """SHA of the claim script, and of the one that looks first. Their arguments are the same."""
    return sha("claim"), sha("look")


#: Where nobody says otherwise.
_YIELDING = preemption.Rules()


def claim_arguments(claimant: Claimant, rules: Rules, yielding: preemption.Rules = _YIELDING) -> list[str]:
    """ARGV of claim.lua and look.lua."""
    return [
        claimant.worker,
        claimant.node,
        "\t" + "\t".join(sorted(claimant.held)) + "\t",
        _numbers(claimant.fits),
        _numbers(claimant.misfits),
        _numbers(claimant.loaded) if claimant.loaded else "",
        _numbers(claimant.modelless),
        _micros(rules.horizon_s),
        _micros(rules.affinity_s),
        _micros(rules.gather_s),
        "".join(f"\n{needs} {count} {' '.join(names)}\n" for needs, (count, names) in claimant.teams.items()),
        str(int(claimant.idle)),
        claimant.look,
        str(INDEXED_AT_ONCE),
        f",{','.join(claimant.queues)},",
        scope_of(claimant.worker, claimant.pause_scope),
        _micros(yielding.after_s),
        str(yielding.limit),
    ]


def _micros(seconds: float) -> str:
    return str(round(seconds * 1e6))


def _numbers(needs: Iterable[str]) -> str:
    return f",{','.join(sorted(needs))},"


def read_reply(reply: Sequence[Any]) -> ClaimReply:
    """What claim.lua answered."""
    # A stranger's bytes need not be UTF-8; tags and names are ASCII.
    kind, *rest = (part.decode(errors="replace") if isinstance(part, bytes) else part for part in reply)
    if kind in ("claim", "lost"):
        tag, envelope, record, siblings, revoked = rest
        held = read_record(record)
        return Claimed(
            tag,
            envelope,
            list=held.list,
            queue=keys.queue_of(held.list),
            deliveries=held.deliveries,
            at=held.at,
            needs=held.needs,
            siblings=tuple(siblings.split(",")) if siblings else (),
            standby=held.standby,
            revoked=bool(revoked),
        )
    if kind == "needs":
        return Unjudged(dict(zip(rest[::2], rest[1::2], strict=True)))
    if kind == "refused":
        return Refused(rest[0])
    if kind == "none":
        return Idle(None if int(rest[0]) < 0 else int(rest[0]) / 1000)
    return Look(rest[0])


@dataclass(frozen=True, slots=True)
class Record:
    """A claim as the store has it. Times in s by Redis's clock."""

    list: str
    at: float
    deliveries: int
    needs: str
    claimed_at: float
    standby: str
    task_id: str


def read_record(told: str) -> Record:
    """A field of `gpumesh:claims:<worker>`, see lua/_let_go.lua."""
    name, at, _, deliveries, needs, _, claimed_at, standby, task_id = told.split("\t", 8)
    return Record(name, int(at) / 1e6, int(deliveries), needs, int(claimed_at) / 1e6, standby, task_id)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: its journal's entry as JSON (empty: none), and what the statistics count of it."""

    journal: str = ""
    #: None: it is not counted.
    outcome: Outcome | None = None
    model: str | None = None
    #: How long it ran; None: since it was claimed.
    ran_s: float | None = None


_UNTOLD = Ended()


def ack(client: redis.Redis, worker: str, tag: str, *, ended: Ended = _UNTOLD) -> bool:
    """Let a claim go, its job done, and write down how it ended. False when it was not this worker's any more."""
    model = _UNPRINTABLE.sub("?", ended.model or "")[:MODEL_LENGTH]
    ran = "" if ended.ran_s is None else _micros(ended.ran_s)
    return bool(script(client, "ack")(args=[worker, tag, ended.journal, JOURNAL_KEPT, ended.outcome or "", model, ran]))


def hand_back(
    client: redis.Redis, worker: str, tag: str, *, counts: bool, max_deliveries: int, preempted: bool = False
) -> bool:
    """Give a claim back to the front of its list; `counts`: as a delivery, `preempted`: as a preemption.

    False when it was not this worker's. What was delivered `max_deliveries` times goes to the dead letters instead.
    """
    args = [worker, tag, 0 if counts else 1, max_deliveries, int(preempted), REMEMBERED_S]
    ours, *rest = script(client, "requeue")(args=args)
    if ours and text(rest[1]) == "requeued":
        wake(client, [keys.queue_of(text(rest[0]))])
    return bool(ours)


def bury(client: redis.Redis, worker: str, tag: str, *, why: str) -> bool:
    """Move a claim to the dead letters, with the reason. False when it was not this worker's."""
    return bool(script(client, "bury")(args=[worker, tag, why]))


def delay(client: redis.Redis, name: str, envelope: str, tag: str, due: float, *, worker: str = "") -> bool:
    """Keep a message of the list `name` until `due`, s since the epoch; `worker` names who claimed it.

    False when it is due already: nothing was changed.
    """
    return bool(script(client, "delay")(args=[name, envelope, tag, repr(due), worker]))


def promote(client: redis.Redis) -> int:
    """Put delayed messages that are due into their lists; how many."""
    lists = script(client, "promote")(args=[PROMOTED_AT_ONCE])
    if lists:
        wake(client, [keys.queue_of(text(name)) for name in lists])
    return len(lists)


def holds(client: redis.Redis, worker: str, tag: str) -> bool:
    """Whether the claim is this worker's still."""
    return bool(client.hexists(keys.claims(worker), tag))


def wake(client: redis.Redis, queues: Sequence[str]) -> int:
    """Wake for a message in each of `queues` the worker that is idle longest; how many were woken."""
    return int(script(client, "wake")(args=list(queues)))
