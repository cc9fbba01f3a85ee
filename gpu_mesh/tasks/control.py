"""The mesh's own periodic work. It runs on the control worker, which needs no device (SPEC Q6)."""

from __future__ import annotations

from typing import Any

from celery import shared_task

from gpu_mesh.domain.queues import CONTROL_QUEUE
from gpu_mesh.settings import settings
from gpu_mesh.store import nodes, ranking
from gpu_mesh.store.client import connect, mapped_errors

__all__ = ["tidy"]


@shared_task(name="mesh.tidy", queue=CONTROL_QUEUE, ignore_result=True)
def tidy() -> dict[str, Any]:
    """Drop what nobody needs any more: nodes silent for a week (their names), needs that no message has (how many)."""
    with mapped_errors(settings()), connect(settings()) as client:
        return {"nodes": nodes.forget_silent(client), "needs": ranking.prune_needs(client)}
