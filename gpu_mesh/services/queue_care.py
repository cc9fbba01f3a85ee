"""Emptying a queue, and moving what waits in it to another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import celery

from gpu_mesh.errors import InvalidTask, UnknownQueue
from gpu_mesh.services.lookup import known_queues
from gpu_mesh.services.revoking import mark_revoked
from gpu_mesh.settings import Settings
from gpu_mesh.store import claims, moving, revoked
from gpu_mesh.store.client import connect, mapped_errors
from gpu_mesh.store.moving import Counts

__all__ = ["Counts", "check_move", "count", "end_interrupted", "move", "purge"]

#: Is told after each step how many messages were done so far.
Progress = Callable[[int], None]
#: Most messages of one move where no limit is given.
EVERY = 2**62


def count(settings: Settings, queue: str) -> Counts:
    """How many messages wait in a queue, and how many are delayed. Raises UnknownQueue, BrokerUnavailable."""
    _check(settings, "queue", queue)
    with mapped_errors(settings), connect(settings) as client:
        return moving.count(client, queue)


def purge(app: celery.Celery, settings: Settings, queue: str, on_progress: Progress = lambda done: None) -> int:
    """Take all that waits in a queue out of it, also what is delayed or malformed; how many messages.

    Their tasks end as REVOKED, so that nobody waits for them for ever. A purge that was interrupted is ended by the
    next one, of whatever queue (`end_interrupted`). Raises UnknownQueue, BrokerUnavailable.
    """
    _check(settings, "queue", queue)
    done = 0
    with mapped_errors(settings), connect(settings) as client:
        _settle(app, client)
        for step in moving.set_aside(client, queue):
            _settle(app, client)
            done += step
            on_progress(done)
    return done


def end_interrupted(app: celery.Celery, settings: Settings) -> None:
    """Mark what an interrupted purge had taken out of its queue. Raises BrokerUnavailable."""
    with mapped_errors(settings), connect(settings) as client:
        _settle(app, client)


def _settle(app: celery.Celery, client: Any) -> None:
    while messages := moving.purged(client):
        revoked.add(client, [message.id for message in messages if message.id])
        for message in messages:
            mark_revoked(app, message.raw, message.headers, store=not message.headers.get("ignore_result"))
            moving.settled(client, message)


def check_move(settings: Settings, queue: str, to: str) -> None:
    """Raises UnknownQueue for a queue that is none, InvalidTask for a move to where it is."""
    _check(settings, "queue", queue)
    _check(settings, "to", to)
    if queue == to:
        raise InvalidTask("to", to, "another queue than the one they are in")


def move(
    settings: Settings, queue: str, to: str, limit: int | None = None, on_progress: Progress = lambda done: None
) -> int:
    """Move what waits in `queue` to `to`, at most `limit` messages; how many.

    The most urgent and oldest go first; order, bands and age are kept, bodies are not touched; what is malformed
    stays. What is delayed comes last. Raises UnknownQueue, InvalidTask, BrokerUnavailable.
    """
    check_move(settings, queue, to)
    left = EVERY if limit is None else limit
    done = 0
    with mapped_errors(settings), connect(settings) as client:
        for step in moving.move(client, queue, to, left):
            done += step
            claims.wake(client, [to] * step)
            on_progress(done)
        done += moving.move_delayed(client, queue, to, left - done)
    on_progress(done)
    return done


def _check(settings: Settings, field: str, queue: str) -> None:
    known = known_queues(settings)
    if queue not in known:
        raise UnknownQueue(field, queue, f"one of {', '.join(known)}")
