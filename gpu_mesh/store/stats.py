"""What the scripts count since the mesh began, and the reports that were made of what ended (store/counters.py)."""

from __future__ import annotations

import json
from typing import Any

import redis

from gpu_mesh.store import keys
from gpu_mesh.store.replies import text

__all__ = ["COUNTED", "REPORTS_KEPT", "keep_report", "read", "reports"]

#: Counts there are. `swaps_saved`: model swaps that affinity avoided.
COUNTED = ("swaps_saved",)
#: Reports that are kept: a day's, one every five minutes.
REPORTS_KEPT = 288


def read(client: redis.Redis) -> dict[str, int]:
    """Every count; 0 for what was never counted, and for what is no count."""
    return dict(zip(COUNTED, map(_count, client.hmget(keys.STATS, COUNTED)), strict=True))


def _count(told: object) -> int:
    try:
        return int(text(told or 0))
    except ValueError:
        return 0


def keep_report(client: redis.Redis, told: str) -> None:
    """Put a report, JSON, before the others."""
    pipe = client.pipeline()
    pipe.lpush(keys.REPORTS, told)
    pipe.ltrim(keys.REPORTS, 0, REPORTS_KEPT - 1)
    pipe.execute()


def reports(client: redis.Redis, limit: int = REPORTS_KEPT) -> list[dict[str, Any]]:
    """The last reports, newest first. What cannot be read is left out."""
    found = []
    for told in client.lrange(keys.REPORTS, 0, limit - 1):
        try:
            found.append(dict(json.loads(text(told))))
        except (ValueError, TypeError):
            continue
    return found
