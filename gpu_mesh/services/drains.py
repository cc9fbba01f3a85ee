"""Draining by hand: nodes and devices that claim nothing, for repairs or for an engineer who needs the card."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gpu_mesh.domain.moments import parse_until
from gpu_mesh.errors import InvalidValue
from gpu_mesh.services.gates import read_closures, whoami
from gpu_mesh.settings import Settings
from gpu_mesh.store import census, cordons, nodes
from gpu_mesh.store.client import connect, mapped_errors

__all__ = ["DRAIN", "Drained", "drain", "sweep", "undrain"]

logger = logging.getLogger(__name__)

#: The reason of a cordon by hand.
DRAIN = "drain"


@dataclass(frozen=True, slots=True)
class Drained:
    """What became of a node or a worker. Times in s since the epoch, in words of the mesh's time zone."""

    name: str
    #: Whether it was drained already (or for `undrain`, was drained).
    was: bool
    until: float | None = None
    #: The end in words, with the time zone; None without an end.
    end: str | None = None
    #: Why it claims nothing all the same; None where it may claim.
    still: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return asdict(self)


def drain(
    settings: Settings,
    name: str,
    *,
    until: str | None = None,
    why: str = "",
    by: str | None = None,
    yield_s: float | None = None,
) -> Drained:
    """A node, or a device (`gpu0@office`), claims nothing from now on; draining again replaces end and words.

    What runs there goes on to its end; with `yield_s` it is asked to yield, and interrupted after so many seconds: it
    goes on elsewhere. `until` as in domain/moments. Kept in Redis. Raises InvalidValue, BrokerUnavailable.
    """
    with mapped_errors(settings), connect(settings) as client:
        _check(client, name)
        closures = read_closures(client, settings, passing=False)
        end = None if until is None else parse_until(until, closures.now, closures.zone)
        who, shown = by or whoami(settings), None if end is None else f"{closures.time(end)} ({closures.zone})"
        words = (
            f"drained by {who}" + (f" until {shown}" if shown else "") + (f": {' '.join(why.split())}" if why else "")
        )
        new = cordons.cordon(client, name, DRAIN, why=words, by=who, until=end, yield_s=yield_s)
        logger.info("%s is %s", name, words, extra={"action": "drain", "subject": name})
        return Drained(name, not new, end, shown)


def undrain(settings: Settings, name: str) -> Drained:
    """It may claim again, unless something else keeps it from that. Raises InvalidValue, BrokerUnavailable."""
    with mapped_errors(settings), connect(settings) as client:
        was = cordons.lift(client, name, DRAIN)
        if was:
            logger.info("%s is no longer drained", name, extra={"action": "undrain", "subject": name})
        else:
            _check(client, name)
        held = cordons.cordoned(client)
        still = [held[one] for one in (name, name.partition("@")[2]) if one in held]
        return Drained(name, was, still="; ".join(still) or None)


def sweep(client: Any, now: float, fields: Mapping[str, str] | None = None) -> None:
    """Lift what was drained until now, s since the epoch. `fields`: as `cordons.parse` has them, if known.

    A cordon of what is ill ends where nobody checks it any more; but not while nobody can, for Redis is full.
    """

    def is_unchecked(one: cordons.Cordon) -> bool:
        return one.reason != DRAIN and census.is_full(client)

    for ended in cordons.lift_ended(client, now, fields, keep=is_unchecked):
        logger.info("%s may claim again: its time is over", ended.name, extra={"action": "undrain"})


def _check(client: Any, name: str) -> None:
    known = [
        one for entry in nodes.all_nodes(client) for one in (entry.node.name, *(d.worker for d in entry.node.devices))
    ]
    if name not in known:
        raise InvalidValue("NAME", name, f"a node or a device of one: {', '.join(known) or 'none is known yet'}")
