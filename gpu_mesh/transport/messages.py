"""Celery's messages, of which the mesh's own tasks send no event: monitors would list little else."""

from __future__ import annotations

from typing import Any

from celery.app.amqp import AMQP, task_message

from gpu_mesh.domain.queues import OWN_TASKS

__all__ = ["Amqp"]


class Amqp(AMQP):
    """Celery gives a task's `send_events` to its worker, and looks for who sends at the configuration alone."""

    def as_task_v2(self, task_id: str, name: str, *args: Any, **options: Any) -> task_message:
        """As Celery has it."""
        message = super().as_task_v2(task_id, name, *args, **options)
        return message._replace(sent_event=None) if name.startswith(OWN_TASKS) else message
