"""Time zones of a test's own, in which clocks show at a moment what the test wants: so that an edge is seconds away."""

from __future__ import annotations

import os
import struct
from pathlib import Path

__all__ = ["path_with", "zone_where"]

_DAY_S = 86_400


def zone_where(folder: Path, name: str, at: float, minutes: int) -> str:
    """Make the zone `name` in `folder`: at `at` (s since the epoch, whole) its clocks show so many minutes past
    midnight. Its offset never changes. Returns the name.
    """
    offset = (minutes * 60 - round(at)) % _DAY_S
    offset = offset - _DAY_S if offset > _DAY_S // 2 else offset
    # A TZif file (RFC 8536), version 1: no changes, one type of local time.
    counts = struct.pack(">6l", 0, 0, 0, 0, 1, 4)
    (folder / name).write_bytes(b"TZif" + bytes(16) + counts + struct.pack(">lbb", offset, 0, 0) + b"TST\0")
    return name


def path_with(folder: Path) -> dict[str, str]:
    """Environment with which a process finds the zones of `folder`, before the machine's."""
    return {"PYTHONTZPATH": os.pathsep.join((str(folder), "/usr/share/zoneinfo"))}
