"""What models were seen to take of devices' memory, by type of device."""

from __future__ import annotations

import json

import redis

from gpu_mesh.domain.footprints import Footprint
from gpu_mesh.store import keys
from gpu_mesh.store.replies import text

__all__ = ["read", "write"]


def read(client: redis.Redis) -> dict[tuple[str, str], Footprint]:
    """All that is known, by type of device and model. What is unreadable is left out."""
    found = {}
    for field, told in client.hgetall(keys.FOOTPRINTS).items():
        try:
            kind, model = json.loads(text(field))
            gb, seen_at = json.loads(text(told))
            found[str(kind), str(model)] = Footprint(float(gb), float(seen_at))
        except (ValueError, TypeError):
            continue
    return found


def write(client: redis.Redis, gpu_type: str, model: str, seen: Footprint) -> None:
    """From now on this is known."""
    client.hset(keys.FOOTPRINTS, json.dumps([gpu_type, model]), json.dumps([seen.gb, seen.seen_at]))
