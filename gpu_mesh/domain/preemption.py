"""Which running jobs yield to which waiting ones (DESIGN §7): the reference model of store/lua/_victim.lua.

A job of the background tier yields to one of the interactive tier that fits its device while no idle device does. Of
those that may, the one of the lowest class yields, among these the one that began last: it has least to lose.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from typing import Literal

from gpu_mesh.domain.queues import QUEUES, Tier
from gpu_mesh.errors import InvalidTask

__all__ = [
    "BY_RESTART",
    "INTERACTIVE",
    "NEVER",
    "PATIENCE_S",
    "PREEMPTED",
    "VICTIMS",
    "WHEN_ASKED",
    "Ask",
    "Demand",
    "Preemptible",
    "Rules",
    "Running",
    "check_preemptible",
    "next_victim",
    "victims",
]

#: What a task may say of itself: it yields at its next checkpoint; its process is killed, and it begins anew; neither.
Preemptible = Literal[True, False, "restart"]
WHEN_ASKED: Preemptible = True
BY_RESTART: Preemptible = "restart"
NEVER: Preemptible = False

#: State of a task that made room for more urgent work and goes on by itself, in the result backend and in
#: `gpu-mesh tasks`. Not RETRY, which is for what failed. Flower shows RETRY all the same: of Celery's events it is the
#: only one after which a later start still counts.
PREEMPTED = "PREEMPTED"
#: Queues whose waiting jobs others yield to, most important first.
INTERACTIVE: tuple[str, ...] = tuple(queue.name for queue in QUEUES if queue.tier is Tier.INTERACTIVE)
#: Queues whose running jobs yield, lowest first.
VICTIMS: tuple[str, ...] = tuple(
    queue.name for queue in sorted(QUEUES, key=lambda queue: queue.weight) if queue.tier is Tier.BACKGROUND
)
#: How long a job that was asked may take to yield before another one is asked as well, s: whoever waits is not to wait
#: for one that saves nothing, or hangs.
PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What an operator may set."""

    #: How long a job runs at least before it is asked, s.
    after_s: float = 0.1
    #: How often one task may be preempted; then it runs to its end.
    limit: int = 50


@dataclass(frozen=True, slots=True)
class Demand:
    """Jobs of one queue with the same needs that wait: `count` of them."""

    queue: str
    needs: str
    count: int


@dataclass(frozen=True, slots=True)
class Ask:
    """For what, and when, a job was asked to yield; times in s."""

    queue: str
    needs: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A job of the background tier that runs; times in s."""

    worker: str
    tag: str
    queue: str
    began: float
    preemptible: bool = True
    #: How often it was preempted before.
    preempted: int = 0
    asked: Ask | None = None
    #: Queues that are closed to its worker: what waits there would not come to it.
    closed: Set[str] = frozenset()


def check_preemptible(value: object) -> Preemptible:
    """The value as one that a task may declare. Raises InvalidTask."""
    if value is True or value is False or value == BY_RESTART:
        return value
    allowed = "True (it yields at its next checkpoint), 'restart' (it may be killed and begun anew) or False"
    raise InvalidTask("preemptible", value, allowed)


def next_victim(
    jobs: Iterable[Running], demand: Demand, fits: Collection[str], *, now: float, rules: Rules
) -> Running | None:
    """Who yields to `demand`, which the devices of the workers `fits` could run; None where nobody may, or has to.

    A job that was asked is not asked again, and serves one that waits for PATIENCE_S.
    """
    jobs = list(jobs)
    if sum(_serves(job, demand, now) for job in jobs) >= demand.count:
        return None
    able = [
        job
        for job in jobs
        if job.preemptible
        and job.queue in VICTIMS
        and job.preempted < rules.limit
        and job.asked is None
        and job.began + rules.after_s <= now
        and job.worker in fits
        and demand.queue not in job.closed
    ]
    return min(able, key=lambda job: (VICTIMS.index(job.queue), -job.began), default=None)


def victims(
    jobs: Iterable[Running],
    demands: Iterable[Demand],
    fits: Mapping[str, Collection[str]],
    idle: Mapping[str, Collection[str]],
    *,
    now: float,
    rules: Rules,
) -> Iterator[tuple[Running, Ask]]:
    """Everybody who yields now, in order. `fits`: workers by needs; `idle`: those without a job, by queue."""
    left = list(jobs)
    for demand in sorted(demands, key=lambda one: (INTERACTIVE.index(one.queue), int(one.needs))):
        able = fits.get(demand.needs, ())
        if set(able) & set(idle.get(demand.queue, ())):
            continue  # it has been woken
        while (job := next_victim(left, demand, able, now=now, rules=rules)) is not None:
            ask = Ask(demand.queue, demand.needs, now)
            left[left.index(job)] = replace(job, asked=ask)
            yield job, ask


def _serves(job: Running, demand: Demand, now: float) -> bool:
    if job.asked is None or (job.asked.queue, job.asked.needs) != (demand.queue, demand.needs):
        return False
    return now - job.asked.at < PATIENCE_S
