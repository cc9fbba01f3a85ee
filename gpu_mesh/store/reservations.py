"""Task ids that are reserved for a request which may come twice: each is sent once, whoever sends it (SPEC A1).

The ids are chosen when the request is first seen. The script that publishes a message notes in the same step that it
was sent, and publishes none that was, or whose reservation is gone: so a sender that died, a reply that was lost and
two that send at once neither lose nor double a task.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import redis

from gpu_mesh.store import keys
from gpu_mesh.store.replies import text
from gpu_mesh.store.scripts import script

__all__ = ["KEPT_S", "SENDING", "Reservation", "confirm", "give_up", "reserve"]

#: How long a request is remembered, s.
KEPT_S = 86_400
#: Header that takes a message's reservation and task id to the channel, which sends what has one by once.lua; it is no
#: part of the message.
SENDING = "mesh_reservation"


@dataclass(frozen=True, slots=True)
class Reservation:
    """What the first request of that key reserved. `is_done`: all was sent; `is_first`: it is this one's own."""

    key: str
    digest: str
    ids: tuple[str, ...]
    is_done: bool
    is_first: bool

    def to_header(self, task_id: str) -> list[str]:
        """As a header of a task's message."""
        return [self.key, task_id]


def reserve(client: redis.Redis, name: str, digest: str, ids: Sequence[str]) -> Reservation:
    """Reserve `ids` for the request `name`, unless there is such a reservation: then that one."""
    key = keys.reservation(name)
    told = script(client, "reserve")(args=[key, digest, json.dumps(list(ids)), KEPT_S])
    first, kept, done, own = map(text, told)
    return Reservation(key, first, tuple(json.loads(kept)), bool(done), own == "1")


def confirm(client: redis.Redis, reservation: Reservation) -> bool:
    """All is sent. False where the reservation is gone: given up by another one that sent nothing."""
    return bool(script(client, "reserved")(args=[reservation.key, "done"]))


def give_up(client: redis.Redis, reservation: Reservation) -> bool:
    """Forget it, unless something was sent: then nothing of it is sent any more, also by who is about to."""
    return bool(script(client, "reserved")(args=[reservation.key, "give up"]))
