"""What every worker of the app gets: loaded through the app's `include`."""

from __future__ import annotations

import logging
from typing import Any

from celery.signals import celeryd_init, task_postrun, task_prerun

from gpu_mesh.celery import app
from gpu_mesh.domain.holds import REALTIME_QUEUES
from gpu_mesh.services import exclusion
from gpu_mesh.store.client import SOCKET_TIMEOUT_S
from workers import cleaning, logs  # noqa: F401  (what a job leaves is cleaned up; what is logged goes to the file too)
from workers.announcer import Announcing
from workers.consumers import NOTICES
from workers.keeper import Keeping
from workers.quiet import quieten
from workers.steps import Claiming, Leasing

__all__ = ["leave_the_device", "outlive_outages", "tell_of_realtime"]

app.steps["worker"].add(Leasing)
app.steps["worker"].add(Announcing)
app.steps["worker"].add(Keeping)
app.steps["consumer"].add(Claiming)

quieten()
# It tells each request at INFO; what it cannot do is raised.
logging.getLogger("httpx").setLevel(logging.WARNING)

#: Kombu's `retry_over_time` without an end; pauses in s.
RESULT_RETRY = {"max_retries": None, "interval_start": 0, "interval_step": 0.2, "interval_max": 1.0}
#: Of a worker's own sends (a chain's next link, a retry, a part): an hour, for a chain that breaks is work lost.
SEND_RETRY = {**RESULT_RETRY, "max_retries": 3600}


@celeryd_init.connect
def outlive_outages(conf: Any = None, **_: Any) -> None:
    """A worker waits for Redis as long as it takes to store a result: the job was done and must not be lost.

    What the job sends goes the same way, where a submit gives up early.
    """
    options = conf.result_backend_transport_options
    conf.result_backend_transport_options = {**options, "retry_policy": RESULT_RETRY}
    conf.task_publish_retry_policy = SEND_RETRY
    timeouts = {"socket_timeout": SOCKET_TIMEOUT_S, "socket_connect_timeout": SOCKET_TIMEOUT_S}
    conf.broker_transport_options = {**conf.broker_transport_options, **timeouts}


@task_postrun.connect
def leave_the_device(**_: Any) -> None:
    """In the pool child, after the clean-up of what the job left (`cleaning`, connected before): others may have it."""
    exclusion.release()


@task_prerun.connect
@task_postrun.connect
def tell_of_realtime(task: Any = None, **_: Any) -> None:
    """In the pool child: a realtime job begins or ends, the worker's parent looks what is closed now.

    It only tells: what pauses batch work, and resumes it whatever became of the job, is the claim (lua/_holds.lua).
    """
    if (task.request.delivery_info or {}).get("routing_key") in REALTIME_QUEUES:
        NOTICES.give()
