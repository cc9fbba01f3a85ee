"""What is wrong with the mesh as a whole (SPEC H7; DESIGN §9): from figures to alerts, pure rules.

Each function returns the alerts that stand now. `held`: subjects of its rule of which one stands already; for those the
figure must have gone down further than it had to go up, so that nothing flaps at a threshold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gpu_mesh.domain.alerts import Alert, Level

__all__ = [
    "Buried",
    "Depth",
    "Misfits",
    "Silent",
    "are_many",
    "backlogs",
    "buried",
    "disconnected",
    "failures",
    "gpu_memory",
    "realtime",
    "redis_memory",
    "unschedulable",
]

MESH = "mesh"
#: Share of a threshold below which what stands is over.
BACK = 0.8
#: Failures are counted over so long, s, from so many tasks on.
FAILURES_S, LEAST_TASKS = 600.0, 20
#: The same of GPU memory, and of Redis's.
MEMORY_BACK = 0.95
#: Redis's memory: from which share on, and from which it is about to refuse tasks.
REDIS_FULL, REDIS_CRITICAL = 0.9, 0.97
#: A dead letter is news for so long, s; and so many of them are no single poison message.
FRESH_S, MANY_DEAD = 3600.0, 100
#: How long a task must have waited before one says that nothing fits it, s: nodes restart.
PATIENCE_S = 60.0
#: Reasons that one alert names, and how much of each, characters.
REASONS, REASON_LENGTH = 3, 120


@dataclass(frozen=True, slots=True)
class Silent:
    """A node that did not say goodbye, and how long it was not heard of, s."""

    name: str
    silent_s: float
    devices: int
    #: By its checks (domain/health).
    is_offline: bool = False


@dataclass(frozen=True, slots=True)
class Depth:
    """A queue: how many wait, from how many on that is too many, and why it is closed."""

    queue: str
    waiting: int
    limit: int
    closed: str | None = None


@dataclass(frozen=True, slots=True)
class Buried:
    """A dead letter that is news: its queue, and why it cannot be run."""

    queue: str
    why: str


@dataclass(frozen=True, slots=True)
class Misfits:
    """Tasks of a queue of the same needs that no device online fits, and why."""

    queue: str
    count: int
    why: str


def disconnected(silent: Iterable[Silent]) -> list[Alert]:
    """One for each node that is silent."""
    return [
        Alert(
            rule="disconnected",
            subject=node.name,
            level=Level.CRITICAL if node.is_offline else Level.ERROR,
            text=f"not heard of for {node.silent_s:.0f} s, with {_count(node.devices, 'device')}; its work moved",
            remedy="see whether it runs and reaches Redis; one that is gone for good is forgotten in a week",
        )
        for node in silent
    ]


def are_many(failed: int, total: int, limit: float, held: Collection[str]) -> bool:
    """Whether more than `limit` (a share) of the tasks that ended lately failed."""
    return total >= LEAST_TASKS and failed > (limit * BACK if MESH in held else limit) * total


def failures(failed: int, total: int, names: Mapping[str, int]) -> list[Alert]:
    """The alert of many failures; `names`: how many by name, as far as that is known."""
    most = ", ".join(f"{times} × {name}" for name, times in Counter(names).most_common(REASONS))
    return [
        Alert(
            rule="failures",
            subject=MESH,
            level=Level.ERROR,
            text=f"{failed} of {total} tasks failed in {FAILURES_S / 60:.0f} min ({failed / total:.0%})"
            + (f": {most}" if most else ""),
            remedy="`gpu-mesh tasks --finished` shows them, `gpu-mesh tasks show ID` the error of one",
        )
    ]


def backlogs(depths: Iterable[Depth], held: Collection[str]) -> list[Alert]:
    """Queues in which more wait than their limit; a limit of 0 is none."""
    found = []
    for one in depths:
        least = one.limit * BACK if one.queue in held else one.limit
        if one.limit and one.waiting > least:
            closed = f"; it is closed: {one.closed}" if one.closed else ""
            found.append(
                Alert(
                    rule="backlog",
                    subject=one.queue,
                    level=Level.WARNING,
                    text=f"{one.waiting} tasks wait, more than {one.limit}{closed}",
                    remedy=f"`gpu-mesh resume {one.queue}` opens it, or wait for its end"
                    if closed
                    else "`gpu-mesh status` shows whether devices are busy or away; add one, or send less",
                )
            )
    return found


def gpu_memory(used: Mapping[str, tuple[float, float]], limit: float, held: Collection[str]) -> list[Alert]:
    """Devices with more than `limit` of their memory in use; `used`: worker → GB used, GB in all."""
    found = []
    for worker, (in_use, total) in sorted(used.items()):
        least = limit * MEMORY_BACK if worker in held else limit
        if total > 0 and in_use > least * total:
            found.append(
                Alert(
                    rule="memory",
                    subject=worker,
                    level=Level.WARNING,
                    text=f"{in_use:.1f} of {total:.1f} GB of GPU memory in use ({in_use / total:.0%})",
                    remedy="`nvidia-smi` shows by whom; unload a model, or give GPU_MESH_MEMORY_MARGIN_GB more",
                )
            )
    return found


def buried(letters: Sequence[Buried], total: int) -> list[Alert]:
    """Dead letters that are news, by queue; `total`: all there are."""
    found = []
    for queue in sorted({letter.queue for letter in letters}):
        whys = Counter(letter.why for letter in letters if letter.queue == queue)
        count = whys.total()
        most = ", ".join(f"{times} × {why}" for why, times in whys.most_common(REASONS))
        found.append(
            Alert(
                rule="dead",
                subject=queue,
                level=Level.CRITICAL if count >= MANY_DEAD else Level.ERROR,
                text=f"{_count(count, 'new dead letter')} within an hour: {most}; {total} in all queues",
                remedy="`gpu-mesh dead list` shows them, `gpu-mesh dead retry ID` and `drop ID` decide",
            )
        )
    return found


def unschedulable(misfits: Sequence[Misfits]) -> list[Alert]:
    """Queues with tasks that no device online can run."""
    found = []
    for queue in sorted({one.queue for one in misfits}):
        counts: Counter[str] = Counter()
        for one in misfits:
            if one.queue == queue:
                counts[_short(one.why)] += one.count
        most = "; ".join(f"{times} × {why}" for why, times in counts.most_common(REASONS))
        found.append(
            Alert(
                rule="unschedulable",
                subject=queue,
                level=Level.ERROR,
                text=f"{_count(counts.total(), 'task')} that no device online can run: {most}",
                remedy="bring a device that fits, or `gpu-mesh cancel ID`; `gpu-mesh tasks --waiting` lists them",
            )
        )
    return found


def realtime(why: str | None, queue: str) -> list[Alert]:
    """Realtime work is refused, for that reason."""
    if why is None:
        return []
    return [
        Alert(
            rule="realtime",
            subject=queue,
            level=Level.CRITICAL,
            text=f"tasks are refused: {why}",
            remedy="`gpu-mesh nodes` shows who is there; start a device's worker, or its engine",
        )
    ]


def redis_memory(used: int, limit: int, is_set: bool, held: Collection[str]) -> list[Alert]:
    """Redis uses nearly all memory it may, or where none `is_set` that its machine has; bytes."""
    least = REDIS_FULL * (MEMORY_BACK if "redis" in held else 1.0)
    if limit <= 0 or used <= least * limit:
        return []
    of = "its maxmemory" if is_set else "its machine's memory"
    return [
        Alert(
            rule="redis",
            subject="redis",
            level=Level.CRITICAL if used > REDIS_CRITICAL * limit else Level.ERROR,
            text=f"uses {used / 1e6:.0f} of {limit / 1e6:.0f} MB, {used / limit:.0%} of {of}; full, it refuses tasks",
            remedy="raise its maxmemory, or shorten GPU_MESH_RESULT_EXPIRES_S; `gpu-mesh queues` shows what waits",
        )
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _short(why: str) -> str:
    return why if len(why) <= REASON_LENGTH else f"{why[:REASON_LENGTH]}…"
