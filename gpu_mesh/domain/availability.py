"""When there is nobody for realtime AI work (SPEC R4): pure rules, `now` in s of any clock that all lookers share."""

from __future__ import annotations

from dataclasses import dataclass

from gpu_mesh.domain.holds import HELD_QUEUE
from gpu_mesh.domain.queues import CONTROL_QUEUE

__all__ = ["BATCH_QUEUE", "REALTIME_QUEUE", "Watch", "look", "serves_devices"]

#: The queue whose tasks are refused, and fail, while nobody can do them.
REALTIME_QUEUE = "ai-realtime"
#: The queue whose tasks wait and are tried again.
BATCH_QUEUE = HELD_QUEUE
#: Workers that serve no device, by what stands before the `@`.
_DEVICELESS = frozenset({CONTROL_QUEUE, "cpu"})


@dataclass(frozen=True, slots=True)
class Watch:
    """What lookers know: when one looked last, and when somebody was there last or the watch began."""

    looked_at: float
    seen_at: float

    def is_out(self, patience_s: float) -> bool:
        """Whether nobody was there for as long as that, by the last look."""
        return self.looked_at - self.seen_at >= patience_s


def look(before: Watch | None, now: float, *, somebody: bool, patience_s: float) -> Watch:
    """The watch after a look at `now`, which found somebody for the work or nobody.

    It begins anew where nobody looked for half of `patience_s`, or the clock stepped back: a Redis or a control worker
    that was away says nothing of the devices, and what begins has as long to come up.
    """
    if before is None or somebody or not 0 <= now - before.looked_at <= patience_s / 2:
        return Watch(now, now)
    return Watch(now, before.seen_at)


def serves_devices(worker: str) -> bool:
    """Whether a worker of that name (`gpu0@node`) may take work of the GPU queues; one of a stranger's name may."""
    return worker.partition("@")[0] not in _DEVICELESS
