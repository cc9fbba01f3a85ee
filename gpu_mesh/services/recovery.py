"""Recovery of what is ill: the node's own engine is restarted there, of the rest the operator is told (SPEC H4, H5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpu_mesh.settings import Settings
from gpu_mesh.store.health import Checked

__all__ = ["tick"]


def tick(client: Any, settings: Settings, now: float, checked: Sequence[Checked]) -> None:
    """Order what can mend those that are unhealthy or offline. `now`: s since the epoch."""
