"""Sends what stands in the outbox through this node's channels: one `tick` at a time (SPEC H6; DESIGN §8).

Taken, sent, then removed: who dies in between leaves it to the next one, which may send a message once more.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from gpu_mesh.domain.alerts import Notice
from gpu_mesh.domain.announcing import Key, Message, Try, failed, plan
from gpu_mesh.domain.channels import Channel, body, title
from gpu_mesh.services.alerts import time_of
from gpu_mesh.services.channels import DEADLINE_S
from gpu_mesh.settings import Settings
from gpu_mesh.store import alerts, outbox, server

__all__ = ["LOCK_S", "Send", "message", "tick"]

logger = logging.getLogger(__name__)

#: How long one sender keeps others out, s: a little longer than what it sends may take.
LOCK_S = DEADLINE_S + 15.0

#: Sends each channel its messages, within a deadline; None for what was sent, else why not.
Send: TypeAlias = Callable[[Mapping[Channel, Sequence[Message]]], dict[Key, str | None]]


def tick(
    client: Any, settings: Settings, channels: Sequence[Channel], send: Send, who: str, *, lock_s: float = LOCK_S
) -> int:
    """Send what is due; how many messages were tried. `who`: this sender, as no other is called."""
    try:
        alerts.summarise(client)
    finally:  # which a Redis that is full refuses: what was posted before is sent all the same
        tried = _send_due(client, settings, channels, send, who, lock_s)
    return tried


def _send_due(client: Any, settings: Settings, channels: Sequence[Channel], send: Send, who: str, lock_s: float) -> int:
    if not outbox.pending(client):
        return 0
    with outbox.alone(client, who, lock_s) as mine:
        return _tick(client, settings, channels, send) if mine else 0


def message(client: Any, settings: Settings, notice: Notice) -> Message:
    """A notice with title and body."""
    mesh = f"the one that {settings.node_name} leads"
    return notice, title(notice), body(notice, mesh, partial(time_of, client, settings))


def _tick(client: Any, settings: Settings, channels: Sequence[Channel], send: Send) -> int:
    tries = outbox.tries(client)
    # Once more: another one may have sent some, until we were alone.
    todo = plan(outbox.pending(client), tries, channels, server.now(client))
    for notice, channel, error in todo.given_up:
        logger.error(
            "%s was not told, given up: [%s] %s: %s (%s)",
            *(channel.label, notice.level.name, notice.subject, notice.text, error),
            extra={"action": "give_up"},
        )
    outbox.note(client, {(notice.id, channel.key): Try(is_done=True) for notice, channel, _ in todo.given_up})
    outbox.finish(client, todo.finished)
    if not todo.batch:
        return 0
    outcomes = send(
        {channel: [message(client, settings, one) for one in batch] for channel, batch in todo.batch.items()}
    )
    now = server.now(client)
    outbox.note(client, {key: _outcome(tries.get(key, Try()), error, now) for key, error in outcomes.items()})
    for channel, batch in todo.batch.items():
        _log(channel, [(notice, tries, outcomes.get((notice.id, channel.key))) for notice in batch])
    after = plan(outbox.pending(client), outbox.tries(client), channels, now)
    outbox.finish(client, after.finished)
    return len(outcomes)


def _outcome(before: Try, error: str | None, now: float) -> Try:
    return Try(is_done=True) if error is None else failed(before, error, now, random.random())


def _log(channel: Channel, told: Sequence[tuple[Notice, Mapping[Key, Try], str | None]]) -> None:
    """The first failure with a notice; what follows is only told when it is given up."""
    errors = [error for notice, tries, error in told if error and (notice.id, channel.key) not in tries]
    if errors:
        logger.warning(
            "%s was not told, it is tried again for an hour: %s",
            *(channel.label, errors[0]),
            extra={"action": "announce"},
        )
