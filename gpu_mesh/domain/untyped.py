"""What another process said, another version of ours perhaps: a value of an unexpected type counts as not said."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["mapping", "number", "sequence"]


def mapping(value: object) -> Mapping[str, Any]:
    """A JSON object; empty for what is none."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: object) -> Sequence[Any]:
    """A JSON array; empty for what is none."""
    return value if isinstance(value, (list, tuple)) else ()


def number(value: object) -> float | None:
    """A finite number; None for what is none, such as true, "3" or NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None
