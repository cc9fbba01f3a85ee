"""The five queues, their weights, which queue a task goes to, and what its priority means on the wire.

Queues in one place (SPEC Q1), urgent first:

    revenue 1.00 > customer 0.95 > ai-realtime 0.90 > internal 0.85 > ai-batch 0.50
    └────────────── interactive ──────────────────┘   └──── background ────┘
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from gpu_mesh.errors import InvalidTask, UnknownQueue

__all__ = [
    "BUSINESS_QUEUES",
    "CONTROL_QUEUE",
    "DEFAULT_PRIORITY",
    "DEFAULT_QUEUE",
    "GPU_QUEUES",
    "OWN_TASKS",
    "PRIORITY_STEPS",
    "QUEUES",
    "TYPE_QUEUES",
    "Band",
    "QueueClass",
    "Tier",
    "band_of",
    "check_priority",
    "choose_queue",
    "list_names",
    "wire_priority",
]


class Tier(StrEnum):
    """Background work never passes waiting interactive work."""

    INTERACTIVE = "interactive"
    BACKGROUND = "background"


@dataclass(frozen=True, slots=True)
class QueueClass:
    """One of the five queues a GPU worker consumes."""

    name: str
    #: Base score of its tasks, 0 to 1 (SPEC Q1).
    weight: float
    tier: Tier


#: Canonical order: by weight, most urgent first. Workers consume in this order.
QUEUES: tuple[QueueClass, ...] = (
    QueueClass("revenue", 1.00, Tier.INTERACTIVE),
    QueueClass("customer", 0.95, Tier.INTERACTIVE),
    QueueClass("ai-realtime", 0.90, Tier.INTERACTIVE),
    QueueClass("internal", 0.85, Tier.BACKGROUND),
    QueueClass("ai-batch", 0.50, Tier.BACKGROUND),
)
GPU_QUEUES: tuple[str, ...] = tuple(queue.name for queue in QUEUES)
#: What `business=` may choose (SPEC Q7).
BUSINESS_QUEUES: tuple[str, ...] = ("revenue", "customer", "internal")
#: Default queue of each built-in task type (SPEC Q7). `test` answers whoever waits at a prompt.
TYPE_QUEUES: dict[str, str] = {
    "llm_inference": "ai-realtime",
    "embeddings": "ai-batch",
    "training": "ai-batch",
    "custom": "ai-batch",
    "test": "ai-realtime",
}
#: Where an application's own task goes (SPEC Q7).
DEFAULT_QUEUE = "internal"
#: The mesh's own periodic work; a CPU queue (SPEC Q6).
CONTROL_QUEUE = "control"
#: How the names of its tasks begin.
OWN_TASKS = "mesh."

#: Priority of a task that states none (SPEC Q4).
DEFAULT_PRIORITY = 5
#: Kombu's `priority_steps`: one Redis list each; 0 is most urgent, as in stock Celery.
PRIORITY_STEPS: tuple[int, ...] = (0, 3, 6, 9)
#: Between a queue's name and its step, in the name of the Redis list.
LIST_SEPARATOR = ":"


class Band(StrEnum):
    """What a priority of 0 to 10 means (SPEC Q4)."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CRITICAL = "critical"


#: Highest priority of each band below critical.
_BAND_TOPS = ((2, Band.LOW), (5, Band.NORMAL), (7, Band.HIGH))
_WIRE = {Band.CRITICAL: 0, Band.HIGH: 3, Band.NORMAL: 6, Band.LOW: 9}


def check_priority(priority: object, field: str = "priority") -> int:
    """`priority` as an int of 0 to 10, or InvalidTask naming `field`."""
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= 10:
        raise InvalidTask(field, priority, "a whole number from 0 (low) to 10 (critical), 5 is normal")
    return priority


def band_of(priority: int) -> Band:
    """The band of a priority: 0-2 low, 3-5 normal, 6-7 high, 8-10 critical (SPEC Q4)."""
    for top, band in _BAND_TOPS:
        if priority <= top:
            return band
    return Band.CRITICAL


def wire_priority(priority: int) -> int:
    """The Celery priority that carries `priority`: a member of `PRIORITY_STEPS`, 0 most urgent."""
    return _WIRE[band_of(priority)]


def list_names(queue: str) -> tuple[str, ...]:
    """The Redis lists of a queue, most urgent first: `ai-batch`, `ai-batch:3`, `ai-batch:6`, `ai-batch:9`."""
    return tuple(f"{queue}{LIST_SEPARATOR}{step}" if step else queue for step in PRIORITY_STEPS)


def choose_queue(
    task_name: str,
    *,
    queue: object = None,
    business: object = None,
    cpu_queues: Callable[[], Sequence[str]] = tuple,
) -> str:
    """The queue a task goes to (SPEC Q7): the one named, else its business class, else its type's, else internal.

    `cpu_queues` is asked only for a queue that is not the mesh's own. Raises UnknownQueue for a name that is no
    queue, InvalidTask when `queue` and `business` disagree.
    """
    if business is not None and business not in BUSINESS_QUEUES:
        raise InvalidTask("business", business, f"one of {', '.join(BUSINESS_QUEUES)}")
    if queue is not None:
        own = (*GPU_QUEUES, CONTROL_QUEUE)
        if queue not in own and queue not in (known := (*own, *cpu_queues())):
            raise UnknownQueue(
                "queue", queue, f"one of {', '.join(known)}; name queues of your own in GPU_MESH_CPU_QUEUES"
            )
        if business is not None and business != queue:
            raise InvalidTask("business", business, f"queue={queue!r} says otherwise; give one of the two")
        return str(queue)
    if business is not None:
        return str(business)
    return TYPE_QUEUES.get(task_name, DEFAULT_QUEUE)
