"""The mesh's own periodic work. It runs on the control worker, which needs no device (SPEC Q6)."""

from __future__ import annotations

from celery import shared_task

from gpu_mesh.domain.queues import CONTROL_QUEUE
from gpu_mesh.settings import settings
from gpu_mesh.store import journal, nodes
from gpu_mesh.store.client import connect, mapped_errors

__all__ = ["forget_nodes"]


@shared_task(name="mesh.forget_nodes", queue=CONTROL_QUEUE, ignore_result=True)
def forget_nodes() -> list[str]:
    """Drop nodes that were silent for a week; returns their names."""
    with mapped_errors(settings()), connect(settings()) as client:
        gone = nodes.forget_silent(client)
        for name in gone:
            journal.clear_node(client, name)
    return gone
