"""What `gpu-mesh doctor` finds."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ENGINE", "Finding"]

#: The check that all findings on engines and their models are of.
ENGINE = "engine"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: `ok`, `note` (works, but know this) or `missing`, with what to do."""

    check: str
    level: str
    found: str
    remedy: str = ""
