"""Which beat leads, and when each periodic entry was last due: what several beats share (DESIGN §8).

Times are seconds since the epoch by Redis's clock. An entry is sent by the script that also notes that it was: one
answer that is lost, or a beat that was stopped meanwhile, sends nothing twice and loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import redis

from gpu_mesh.store import keys, server
from gpu_mesh.store.replies import text
from gpu_mesh.store.scripts import script

__all__ = ["DUE", "FIRING", "Firing", "Lead", "begin", "lead", "leave", "runs", "take"]

#: Header that takes a firing to the channel, which sends what has one by fire.lua; it is no part of the message.
FIRING = "mesh_firing"
#: Header of a periodic entry's message: when it was due.
DUE = "beat_due"


@dataclass(frozen=True, slots=True)
class Lead:
    """Redis's time, the beat that leads, and whether it does so only from now on."""

    now: float
    beat: str
    begins: bool


@dataclass(frozen=True, slots=True)
class Firing:
    """An entry that is due: the beat that sends it, its name, and when it was due."""

    beat: str
    entry: str
    due: float

    def to_header(self) -> list[str]:
        """As a header of the message, and as arguments of the scripts."""
        return [self.beat, self.entry, repr(self.due)]


def lead(client: redis.Redis, beat: str, hold_s: float) -> Lead:
    """Lead for the next `hold_s`, unless another beat does."""
    seconds, micros, holder, begins = script(client, "lead")(args=[beat, round(hold_s * 1000)])
    return Lead(server.stamp(seconds, micros), text(holder), bool(int(begins)))


def leave(client: redis.Redis, beat: str) -> None:
    """Lead no more, so that another one may at once."""
    script(client, "lead")(args=[beat, 1])


def runs(client: redis.Redis) -> dict[str, float]:
    """When each entry was last due."""
    return {text(name): float(due) for name, due in client.hgetall(keys.BEAT_RUNS).items()}


def begin(client: redis.Redis, beat: str, since: Mapping[str, float], gone: Iterable[str]) -> None:
    """Have entries count as last due at these times, and forget those that are gone; unless another one leads."""
    pairs = [word for name, due in since.items() for word in (name, repr(due))]
    script(client, "begin")(args=[beat, len(since), *pairs, *gone])


def take(client: redis.Redis, firing: Iterable[str]) -> bool:
    """Whether what publish.lua does not take is to be sent: it then counts as sent. `firing`: as its header."""
    return bool(int(script(client, "due")(args=list(firing))))
