"""Taking tasks back so that it holds for every worker, also for one that joins later (DESIGN §5)."""

from __future__ import annotations

import base64
import binascii
import json
import logging
from collections.abc import Mapping
from typing import Any

import celery
from celery.app import control
from celery.app.task import Context

from gpu_mesh.settings import settings
from gpu_mesh.store import revoked
from gpu_mesh.store.client import mapped_errors

__all__ = ["CANCELLED", "Control", "mark_failed", "mark_revoked"]

logger = logging.getLogger(__name__)

#: Error text of a task that was cancelled before it ran.
CANCELLED = "cancelled"
#: Remote control commands that take tasks back.
_REVOKING = frozenset({"revoke", "terminate"})


class Control(control.Control):
    """Celery's remote control, whose `revoke` is also written down: `AsyncResult.revoke`, `celery control revoke`,
    Flower. With a `destination` only those workers are told, as in stock Celery; `revoke_by_stamped_headers` tells the
    workers that are online, no others.
    """

    def broadcast(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        destination: Any = None,
        connection: Any = None,
        **options: Any,
    ) -> Any:
        """As Celery's. Raises kombu's OperationalError or BrokerUnavailable when Redis is away."""
        if command in _REVOKING and not destination and not options.get("pattern"):
            self._remember((arguments or options).get("task_id"), connection)
        return super().broadcast(command, arguments, destination, connection, **options)

    def _remember(self, given: Any, connection: Any) -> None:
        task_ids = [given] if isinstance(given, str) else list(given or ())
        current = settings()
        with self.app.connection_or_acquire(connection) as held, mapped_errors(current):
            # Else the channel waits for Redis for ever.
            held.ensure_connection(max_retries=1, interval_start=0, timeout=current.submit_timeout_s)
            if held.transport.driver_type == "redis":
                revoked.add(held.default_channel.client, map(str, task_ids))


def mark_revoked(app: celery.Celery, raw: str, headers: Mapping[str, Any], *, store: bool = True) -> None:
    """Write the result a worker would have written, so that waiters, chords and callbacks hear of it.

    `raw` is the task's envelope, `store` whether it has a result. What cannot be read is marked by its id alone;
    without an id there is nobody who could wait.
    """
    task_id = headers.get("id")
    if not isinstance(task_id, str) or not task_id:
        return
    request = _read(raw, headers, action="revoke")
    if request is None or store or request.chord:
        app.backend.mark_as_revoked(task_id, CANCELLED, request=request, store_result=store or request is None)


def mark_failed(
    app: celery.Celery, raw: str, headers: Mapping[str, Any], exc: Exception, *, store: bool = True
) -> None:
    """Write the failure of a task that no worker will run, as a worker would: to waiters, chords and error callbacks.

    `raw` and `store` as for `mark_revoked`.
    """
    task_id = headers.get("id")
    if not isinstance(task_id, str) or not task_id:
        return
    request = _read(raw, headers, action="fail")
    app.backend.mark_as_failure(task_id, exc, request=request, store_result=store or request is None)


def _read(raw: str, headers: Mapping[str, Any], *, action: str) -> Context | None:
    """The task's request; None, and a warning, where its body cannot be read."""
    try:
        return _request(raw, headers)
    except (ValueError, TypeError, KeyError, AttributeError, binascii.Error) as exc:
        logger.warning("%s: its body is unreadable: %s", headers.get("id"), exc, extra={"action": action})
        return None


def _request(raw: str, headers: Mapping[str, Any]) -> Context:
    args, kwargs, embed = json.loads(base64.b64decode(json.loads(raw)["body"]))
    # Error callbacks are sent by what Celery finds in the last.
    told = {"args": args, "kwargs": kwargs, "errbacks": embed.get("errbacks"), "delivery_info": {}}
    return Context({**headers, **embed, **told})
