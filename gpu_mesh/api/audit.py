"""What callers changed, in the log: who, what, on which things. Every request that may change something is there, by
itself; a route that knows more says so with `recorded`."""

from __future__ import annotations

import logging
import re

from starlette.types import Message, Scope, Send

from gpu_mesh.api.access import Caller
from gpu_mesh.errors import VALUE_SHOWN

__all__ = ["recorded", "watched"]

logger = logging.getLogger(__name__)

#: Methods that change nothing.
READERS = ("GET", "HEAD", "OPTIONS")
#: What comes by the hundred a second; it would roll the log over within the hour.
SENDERS = ("/tasks/submit", "/tasks/batch")
#: Where a task's id stands, in a path or in where a new one is.
_TASK = re.compile(r"/tasks/([^/]+)")


def recorded(caller: Caller, action: str, /, level: int = logging.INFO, **about: object) -> None:
    """Log that `caller` did `action` (`submit`, `pause`) about things such as `task=…`; what is None is left out.

    `task` names the line's task, so that `gpu-mesh logs --task` finds it."""
    said = {name: _shown(value) for name, value in about.items() if value not in (None, False, ())}
    words = " ".join([action, *(f"{name}={value}" for name, value in said.items())])
    task = {"task": said["task"]} if "task" in said else {}
    logger.log(level, "%s: %s", caller.name, words, extra={"action": "request", "user": caller.name, **task})


def watched(scope: Scope, caller: Caller, send: Send) -> Send:
    """`send`, which logs what a request of that caller changed once it is answered; not one that was refused."""
    if scope["method"] in READERS:
        return send

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] < 400:
            places = [scope["path"]]
            places += [value.decode("latin-1") for name, value in message.get("headers", []) if name == b"location"]
            found = None if places[-1] in SENDERS else _TASK.fullmatch(places[-1])
            level = logging.DEBUG if places[0] in SENDERS and scope["method"] == "POST" else logging.INFO
            told = f"{scope['method']} {_shown(scope['path'])}"
            recorded(caller, told, level=level, task=found[1] if found else None)
        await send(message)

    return sending


def _shown(value: object) -> str:
    # One line, printable: what a client names its tasks must not forge a record of another's.
    text = "".join(part if part.isprintable() else "?" for part in str(value))
    return text if len(text) <= VALUE_SHOWN else text[:VALUE_SHOWN] + "…"
