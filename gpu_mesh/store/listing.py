"""Waiting and delayed messages a page at a time; a page's end stays its place while messages come and go."""

from __future__ import annotations

from typing import Any

import redis

from gpu_mesh.store import keys
from gpu_mesh.store.queues import Waiting, headers_of
from gpu_mesh.store.replies import text
from gpu_mesh.store.scripts import script

__all__ = ["delayed", "page"]

#: Before every place of a list.
FIRST = -(2**53)


def page(client: redis.Redis, name: str, place: int | None, most: int) -> tuple[list[tuple[int, Waiting]], int | None]:
    """Messages of the list `name` from a place on (None: its first), each with its place, the oldest first; and where
    to go on, None at its end.

    A message keeps its place, or moves on to a younger one's: none that waits all the while is missed. A list that a
    stock worker takes from is numbered anew.
    """
    first, then, *found = map(text, script(client, "page")(args=[name, FIRST if place is None else place, most]))
    queue = keys.queue_of(name)
    messages = [(place, Waiting(queue, 0, raw, headers_of(raw), name)) for place, raw in enumerate(found, int(first))]
    return messages, int(then) if then else None


def delayed(client: redis.Redis, due: float, tag: str, most: int) -> list[tuple[Waiting, float, str]]:
    """Messages whose time has not come, each with when it is due and its delivery tag: those behind `due` and `tag`."""
    start = 0
    found: list[tuple[Waiting, float, str]] = []
    while len(found) < most:
        scored: Any = client.zrangebyscore(keys.DELAYED, due, "+inf", start=start, num=most, withscores=True)
        pairs = [(text(member), float(score)) for member, score in scored]
        behind = [(its, at) for its, at in pairs if (at, its) > (due, tag)]
        held = client.hmget(keys.LATER, [its for its, _ in behind]) if behind else ()
        for (its, at), kept in zip(behind, held, strict=True):
            if kept is not None:
                name, _, raw = text(kept).partition("\n")
                found.append((Waiting(keys.queue_of(name), 0, raw, headers_of(raw), name), at, its))
        if len(pairs) < most:
            break
        start += most
    return found[:most]
