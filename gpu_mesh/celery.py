"""The Celery app of the mesh: `celery -A gpu_mesh worker|beat|inspect|flower`.

The wire is stock Celery on Redis (DESIGN §4): JSON only, one list per queue and priority step, late acks.
"""

from __future__ import annotations

import math
import os
import ssl
import threading
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import click
from celery import Celery
from kombu.entity import Exchange, Queue
from kombu.exceptions import EncodeError, OperationalError
from kombu.serialization import dumps

import gpu_mesh.services.inspection  # noqa: F401  (`celery -A gpu_mesh inspect` knows our commands)
from gpu_mesh.domain.availability import REALTIME_QUEUE
from gpu_mesh.domain.queues import CONTROL_QUEUE, DEFAULT_QUEUE, GPU_QUEUES, LIST_SEPARATOR, PRIORITY_STEPS
from gpu_mesh.errors import BrokerRefused, BrokerUnavailable, InvalidTask, MeshError
from gpu_mesh.services.availability import unavailable
from gpu_mesh.services.notices import Notices
from gpu_mesh.settings import Settings, settings
from gpu_mesh.store.client import (
    HEALTH_CHECK_S,
    SOCKET_TIMEOUT_S,
    broker_error,
    broker_url,
    result_url,
    tls_options,
)

# Any module of that package registers the built-in task types.
from gpu_mesh.tasks.options import check_payload, prepare
from gpu_mesh.transport import install

__all__ = ["BrokerDenied", "BrokerLost", "MeshCelery", "app", "configuration"]

#: A submit looks first whether the broker is there, unless one did within the last, s.
CHECK_EVERY_S = 1.0
#: Loaded by name, for they lie above this module: the periodic schedule and the worker's signal hooks.
UPPER_MODULES = ("beat_schedule", "workers.hooks")


class BrokerLost(BrokerUnavailable, OperationalError):
    """Redis does not answer. Also kombu's OperationalError, which Celery itself and stock callers catch."""


class BrokerDenied(BrokerRefused, BrokerLost):
    """Redis answers, but refuses us."""


class MeshCelery(Celery):
    """Celery whose sends carry the `mesh` header, also by name, and whose broker errors name the address."""

    task_cls = "gpu_mesh.tasks.base:GpuTask"
    control_cls = "gpu_mesh.services.revoking:Control"
    loader_cls = "gpu_mesh.transport.results:Loader"
    amqp_cls = "gpu_mesh.transport.messages:Amqp"
    _checked_at = -math.inf

    @cached_property
    def _looking(self) -> threading.Lock:
        return threading.Lock()

    @cached_property
    def _notices(self) -> Notices:
        return Notices()

    def send_task(self, name: str, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        """Send by name, as Celery does. Raises InvalidTask for wrong mesh options, BrokerLost when Redis is away,
        ServiceUnavailable while nobody can do realtime work that is to begin now.
        """
        if options.get("task_type") is None:
            # As Celery does, what a task known here declares holds for a send by its name too.
            options = prepare(name, getattr(self._tasks.get(name), "declared", {}), options)
            if self.current_worker_task is None:
                check_payload(args, kwargs)
        try:
            if self.current_worker_task is None:
                self.check_open(options)
            sent = super().send_task(name, args, kwargs, *rest, **options)
        except (OperationalError, RuntimeError, BrokerUnavailable) as exc:
            self._checked_at = -math.inf
            current = settings()
            if (error := broker_error(current, exc)) is None:
                raise
            raised = BrokerDenied if isinstance(error, BrokerRefused) else BrokerLost
            raise raised(str(error)) from exc
        if self.current_worker_task is None and options.get("eta") is None and options.get("countdown") is None:
            self._notices.tell(options.get("queue"))
        return sent

    def check_open(self, options: Mapping[str, Any]) -> None:
        """Would a send with these options be taken now? Raises BrokerUnavailable, ServiceUnavailable."""
        self._check_broker()
        if self._notices.outage is not None:
            self._refuse(options)

    def check_json(self, args: Any, kwargs: Any) -> None:
        """Could a message carry these arguments? Raises InvalidTask."""
        try:
            dumps([args, kwargs], serializer="json")
        except EncodeError as exc:
            raise InvalidTask("args", [args, kwargs], f"what JSON can say ({exc})") from None

    def broker_answered(self) -> None:
        """Redis was just heard of: a send need not look first."""
        self._checked_at = time.monotonic()

    def _check_broker(self) -> None:
        """Find a broker that is away or refuses us within the submit's limit.

        Celery's own retries, of the result backend first, take several times as long and end in less clear words.
        In a worker they are right: there, a send must outlive an outage.
        """
        now = time.monotonic()
        age_s = now - self._checked_at
        if age_s <= CHECK_EVERY_S:
            return
        is_first = self._looking.acquire(blocking=False)
        try:
            # Of many threads one looks; the others go by the look before, unless it was long ago or found nobody.
            if is_first or age_s > 2 * CHECK_EVERY_S:
                current = settings()
                self._notices.look(current, timeout_s=current.submit_timeout_s)
                self._checked_at = now
        finally:
            if is_first:
                self._looking.release()

    def _refuse(self, options: Mapping[str, Any]) -> None:
        """While nobody can do realtime work: look anew for each task of it, so that the first one that can be done is
        taken."""
        if options.get("queue") != REALTIME_QUEUE or any(options.get(name) for name in ("eta", "countdown")):
            return
        self._checked_at = -math.inf
        self._check_broker()
        if self._notices.outage is not None:
            raise unavailable(self._notices.outage.why)


def configuration(current: Settings) -> dict[str, Any]:
    """Celery's configuration for these settings."""
    return {
        **_broker(current),
        **_results(current),
        **_tls(current),
        "task_serializer": "json",
        "accept_content": ["json"],
        "enable_utc": True,
        # A job is acknowledged when it is done, and a worker holds no second one.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        "worker_concurrency": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_send_task_events": True,
        "task_send_sent_event": True,
        "task_track_started": True,
        # Queues in canonical order: workers consume in the order of this list.
        "task_queues": [_queue(name) for name in _queue_names(current)],
        "task_default_queue": DEFAULT_QUEUE,
        "task_create_missing_queues": False,
        "worker_consumer": "workers.consumer:Consumer",
        "worker_pool": "workers.prefork:TaskPool",
        "beat_scheduler": "workers.beat:Scheduler",
        "include": [*UPPER_MODULES, *current.include],
        "worker_log_format": "%(levelname)s %(name)s: %(message)s",
        "worker_task_log_format": "%(levelname)s %(task_name)s[%(task_id)s]: %(message)s",
    }


def _queue_names(current: Settings) -> tuple[str, ...]:
    return (*GPU_QUEUES, CONTROL_QUEUE, *current.cpu_queues)


def _queue(name: str) -> Any:
    """One Redis list and its priority steps, all of the queue's own name."""
    return Queue(name, Exchange(name), name)


def _broker(current: Settings) -> dict[str, Any]:
    return {
        "broker_url": broker_url(current),
        "broker_connection_timeout": SOCKET_TIMEOUT_S,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            # A submit waits no longer for one answer; a worker may (workers/hooks).
            "socket_timeout": current.submit_timeout_s,
            "socket_connect_timeout": current.submit_timeout_s,
            "socket_keepalive": True,
            "health_check_interval": HEALTH_CHECK_S,
            "sep": LIST_SEPARATOR,
            "priority_steps": list(PRIORITY_STEPS),
            "queue_order_strategy": "priority",
            "master_name": current.sentinel_master,
            "mesh_queues": list(_queue_names(current)),
        },
        "task_publish_retry_policy": {
            # Each costs up to two socket timeouts; one is enough for a connection that Redis's restart cut.
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.2,
            "interval_max": 0.5,
        },
    }


def _results(current: Settings) -> dict[str, Any]:
    return {
        "result_backend": result_url(current),
        "result_expires": current.result_expires_s,
        "result_extended": True,
        "result_serializer": "json",
        "redis_socket_timeout": SOCKET_TIMEOUT_S,
        "redis_socket_connect_timeout": SOCKET_TIMEOUT_S,
        # Celery hands it to a Unix socket too, which has none and refuses it.
        "redis_socket_keepalive": not result_url(current).startswith("redis+socket://"),
        "redis_backend_health_check_interval": HEALTH_CHECK_S,
        "result_backend_transport_options": {
            "master_name": current.sentinel_master,
            # A worker waits for Redis as long as it takes: its result must not be lost (workers/hooks).
            "retry_policy": {"timeout": current.submit_timeout_s},
        },
    }


def _tls(current: Settings) -> dict[str, Any]:
    tls = tls_options(current)
    if not tls or not broker_url(current).startswith("rediss://"):
        return {}
    options = {**tls, "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return {"broker_use_ssl": options, "redis_backend_use_ssl": options}


class SettingRefused(click.ClickException):
    """A refused setting as Celery's own command line shows it: one line, no traceback."""

    exit_code = os.EX_CONFIG


def _configuration() -> dict[str, Any]:
    try:
        return configuration(settings())
    except MeshError as exc:
        if click.get_current_context(silent=True) is not None:
            raise SettingRefused(str(exc)) from None
        raise


install()
app = MeshCelery("gpu_mesh", set_as_current=True)
# A promise: settings are read when the configuration is first needed, not when this module is imported.
app.add_defaults(_configuration)
