"""What the mesh's own periodic work took, counted since the mesh began (SPEC A4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import redis

from gpu_mesh.store.replies import text
from gpu_mesh.store.scripts import script

__all__ = ["Tick", "note", "parse"]


@dataclass(frozen=True, slots=True)
class Tick:
    """Runs of one kind of work; `at` is when the last one ended, s since the epoch by Redis's clock."""

    runs: int = 0
    failed: int = 0
    #: What all of them took, and the last one, s.
    total_s: float = 0.0
    last_s: float = 0.0
    #: How long after it was due the last one began, s; None where nobody said when it was.
    late_s: float | None = None
    at: float = 0.0


def note(client: redis.Redis, name: str, took_s: float, *, failed: bool, due: float | None = None) -> None:
    """Count a run that has just ended; `due` in s since the epoch."""
    args = [name, round(took_s * 1e6), int(failed), "" if due is None else f"{due:.6f}"]
    script(client, "ticked")(args=args)


def parse(told: Mapping[Any, Any]) -> dict[str, Tick]:
    """What Redis holds, by name. What is no figure is left out."""
    held: dict[str, dict[str, float]] = {}
    for field, value in told.items():
        name, _, what = text(field).rpartition("|")
        try:
            held.setdefault(name, {})[what] = float(text(value))
        except ValueError:
            continue
    return {name: _tick(found) for name, found in sorted(held.items()) if found.get("runs")}


def _tick(found: Mapping[str, float]) -> Tick:
    late_us = found.get("late_us")
    return Tick(
        runs=int(found["runs"]),
        failed=int(found.get("failed", 0)),
        total_s=found.get("us", 0.0) / 1e6,
        last_s=found.get("last_us", 0.0) / 1e6,
        late_s=None if late_us is None else late_us / 1e6,
        at=found.get("at", 0.0),
    )
