"""Repairs of engines: ordered by who looks after the mesh, done by the node that is ill, and what became of them.

An order names an engine, never a command. One is taken by one process, and stays among the node's pending ones until
its end is recorded, so that nobody orders it twice.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import redis

from gpu_mesh.store import keys, server
from gpu_mesh.store.replies import text

__all__ = [
    "EXPIRED",
    "FAILED",
    "KEPT",
    "RECOVERED",
    "REFUSED",
    "VALID_S",
    "Order",
    "Repair",
    "history",
    "order",
    "pending",
    "record",
    "take",
    "taken",
    "tell",
]

#: What became of an order: the engine answers; it does not; the node may not do it; nobody took it in time.
RECOVERED, FAILED, REFUSED, EXPIRED = "recovered", "failed", "refused", "expired"
#: An older order is not carried out, s: who ordered it has looked again by then.
VALID_S = 60.0
#: After so long without a word an order is forgotten, whoever took it, s.
FORGOTTEN_S = 7200
#: Attempts that are remembered.
KEPT = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One repair. `ordered_at` in s since the epoch, by Redis's clock."""

    id: str
    node: str
    #: Of the device whose engine is ill: `gpu0@office-1`.
    worker: str
    engine_url: str
    #: The n-th in a row, counted from 1.
    attempt: int
    ordered_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What became of an order. Times in s since the epoch, by Redis's clock; None: it was not begun."""

    order: Order
    outcome: str
    #: In words.
    why: str
    started_at: float | None = None
    ended_at: float | None = None
    command: tuple[str, ...] = ()
    #: The last lines that the command said.
    output: tuple[str, ...] = ()
    #: None: it was not run, or runs on.
    exit_code: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data, the order's fields among its own."""
        own = asdict(self)
        return {**own.pop("order"), **own}


def order(client: redis.Redis, node: str, worker: str, engine_url: str, attempt: int) -> str:
    """Order a node to repair an engine. Returns the order's id."""
    made = Order(
        id=uuid.uuid4().hex,
        node=node,
        worker=worker,
        engine_url=engine_url,
        attempt=attempt,
        ordered_at=server.now(client),
    )
    with client.pipeline() as pipe:
        pipe.lpush(keys.orders(node), json.dumps(asdict(made)))
        pipe.expire(keys.orders(node), FORGOTTEN_S)
        pipe.execute()
    return made.id


def pending(client: redis.Redis, node: str) -> list[Order]:
    """Orders of the node that have no end yet, oldest first: the one that is carried out, and those that wait and are
    not too old."""
    oldest = server.now(client) - VALID_S
    with client.pipeline() as pipe:
        for key in (keys.mending(node), keys.orders(node)):
            pipe.lrange(key, 0, -1)
        mending, waiting = pipe.execute()
    taken = [one for told in reversed(mending) if (one := _order(told)) is not None]
    waits = [one for told in reversed(waiting) if (one := _order(told)) is not None]
    return [*taken, *(one for one in waits if one.ordered_at >= oldest)]


def take(client: redis.Redis, node: str, timeout_s: int) -> Order | None:
    """The node's oldest order, waiting for one; None when none came. What is no order is dropped."""
    told = client.blmove(keys.orders(node), keys.mending(node), timeout_s, "RIGHT", "LEFT")
    if told is None:
        return None
    client.expire(keys.mending(node), FORGOTTEN_S)
    found = _order(told)
    if found is None:
        client.lrem(keys.mending(node), 0, text(told))
    return found


def taken(client: redis.Redis, node: str) -> list[Order]:
    """Orders that somebody of the node took and did not end."""
    found = [_order(told) for told in client.lrange(keys.mending(node), 0, -1)]
    return [one for one in found if one is not None]


def record(client: redis.Redis, repair: Repair) -> None:
    """The end of an order."""
    with client.pipeline() as pipe:
        pipe.lpush(keys.REPAIRS, json.dumps(repair.to_dict()))
        pipe.ltrim(keys.REPAIRS, 0, KEPT - 1)
        pipe.lpush(keys.UNTOLD, json.dumps(repair.to_dict()))
        pipe.ltrim(keys.UNTOLD, 0, KEPT - 1)
        pipe.lrem(keys.mending(repair.order.node), 0, json.dumps(asdict(repair.order)))
        if repair.outcome == RECOVERED:
            pipe.delete(keys.CHECKER)  # a check may follow at once
        pipe.execute()


def history(client: redis.Redis, limit: int = KEPT) -> list[Repair]:
    """The last attempts, newest first."""
    found = [_repair(told) for told in client.lrange(keys.REPAIRS, 0, limit - 1)]
    return [one for one in found if one is not None]


def tell(client: redis.Redis, hear: Callable[[Repair], None]) -> None:
    """Have `hear` hear of attempts that nobody was told of, oldest first; of one that it fails for once more."""
    for _ in range(KEPT):
        raw = client.lindex(keys.UNTOLD, -1)
        if raw is None:
            return
        if (repair := _repair(raw)) is not None:
            hear(repair)
        client.lrem(keys.UNTOLD, -1, text(raw))


def _order(told: Any) -> Order | None:
    try:
        return _read_order(json.loads(text(told)))
    except (ValueError, TypeError, KeyError):
        return None


def _read_order(data: Mapping[str, Any]) -> Order:
    return Order(
        id=str(data["id"]),
        node=str(data["node"]),
        worker=str(data["worker"]),
        engine_url=str(data["engine_url"]),
        attempt=int(data["attempt"]),
        ordered_at=float(data["ordered_at"]),
    )


def _repair(told: Any) -> Repair | None:
    try:
        data = json.loads(text(told))
        return Repair(
            order=_read_order(data),
            outcome=str(data["outcome"]),
            why=str(data["why"]),
            started_at=data["started_at"],
            ended_at=data["ended_at"],
            command=tuple(data["command"]),
            output=tuple(data["output"]),
            exit_code=data["exit_code"],
        )
    except (ValueError, TypeError, KeyError):
        return None
