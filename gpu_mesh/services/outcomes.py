"""How tasks stand, many at once: what those who wait for their end ask every second."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import celery
from celery import states

from gpu_mesh.settings import Settings
from gpu_mesh.store import dead, journal
from gpu_mesh.store.client import broker_error, mapped_errors

__all__ = ["Outcome", "outcomes", "unrecorded"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """`state` is Celery's; `value` the result, the exception, or what the task said of itself (`PROGRESS`)."""

    state: str = states.PENDING
    value: Any = None

    @property
    def is_over(self) -> bool:
        """Whether the task ended."""
        return self.state in states.READY_STATES


def outcomes(app: celery.Celery, settings: Settings, task_ids: Collection[str]) -> dict[str, Outcome]:
    """Of tasks that have a state; in one round trip, without Celery's retries. Raises BrokerUnavailable."""
    ids = list(task_ids)
    backend = app.backend
    try:
        held = backend.mget([backend.get_key_for_task(one) for one in ids]) if ids else []
    except Exception as exc:
        if (error := broker_error(settings, exc)) is None:
            raise
        raise error from exc
    metas = [(one, backend.decode_result(raw)) for one, raw in zip(ids, held, strict=True) if raw]
    return {one: Outcome(str(meta["status"]), meta.get("result")) for one, meta in metas}


def unrecorded(client: Any, settings: Settings, task_ids: Collection[str]) -> dict[str, str]:
    """How those ended whose result does not say: they keep none, or are dead letters. Raises BrokerUnavailable."""
    with mapped_errors(settings):
        ended = {str(entry["id"]): str(entry["state"]) for entry in reversed(journal.finished(client))}
        letters = {letter.id for letter in dead.letters(client)}
    told = {one: ended[one] for one in task_ids if ended.get(one) in states.READY_STATES}
    return told | {one: states.FAILURE for one in task_ids if one in letters}
