"""What callers changed, in the log: who, what, on which things."""

from __future__ import annotations

import logging

from gpu_mesh.api.access import Caller
from gpu_mesh.errors import VALUE_SHOWN

__all__ = ["recorded"]

logger = logging.getLogger(__name__)


def recorded(caller: Caller, action: str, /, **about: object) -> None:
    """Log that `caller` did `action` (`submit`, `pause`) about things such as `task=…`; what is None is left out.

    `task` names the line's task, so that `gpu-mesh logs --task` finds it."""
    said = {name: _shown(value) for name, value in about.items() if value not in (None, False, ())}
    words = " ".join([action, *(f"{name}={value}" for name, value in said.items())])
    task = {"task": said["task"]} if "task" in said else {}
    logger.info("%s: %s", caller.name, words, extra={"action": "request", "user": caller.name, **task})


def _shown(value: object) -> str:
    # One line, printable: what a client names its tasks must not forge a record of another's.
    text = "".join(part if part.isprintable() else "?" for part in str(value))
    return text if len(text) <= VALUE_SHOWN else text[:VALUE_SHOWN] + "…"
