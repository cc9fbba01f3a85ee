"""The worker of one device: a Celery worker, prefork, concurrency 1 (DESIGN §1).

The parent stays responsive (inspect, revoke) while its one child runs the job.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence

from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.domain.queues import GPU_QUEUES

__all__ = ["QUIET_HEARTBEAT_S", "celery_argv", "device_argv", "environment", "worker_argv"]

#: Both cost N² messages in a fleet (DESIGN §2).
_FLEET_FLAGS = ("--without-mingle", "--without-gossip")
#: How often a worker without a device says in an event that it lives, s: Celery's 2 would be a fifth of what it costs
#: while it has nothing to do. Each says when the next is due, so that Flower takes none for dead.
QUIET_HEARTBEAT_S = 10


def celery_argv(*words: str) -> list[str]:
    """What `celery -A gpu_mesh …` does, run by this interpreter."""
    return [sys.executable, "-P", "-m", "workers", "--quiet", *words]


def worker_argv(
    name: str, queues: Sequence[str], *, concurrency: int, log_level: str, heartbeat_s: int | None = None
) -> list[str]:
    """Command of a Celery worker `name` that consumes `queues`, in that order. `heartbeat_s` None: as Celery has it."""
    return celery_argv(
        "worker",
        f"--hostname={name}",
        f"--queues={','.join(queues)}",
        f"--concurrency={concurrency}",
        "--pool=prefork",
        "--task-events",
        f"--loglevel={log_level}",
        *([] if heartbeat_s is None else [f"--heartbeat-interval={heartbeat_s}"]),
        *_FLEET_FLAGS,
    )


def device_argv(device: Device, *, log_level: str) -> list[str]:
    """Command of a device's worker."""
    return worker_argv(device.worker, GPU_QUEUES, concurrency=1, log_level=log_level)


def environment(device: Device) -> Mapping[str, str]:
    """What a device's worker finds in its environment: its device, and no other one visible."""
    visible = device.uuid if device.kind is DeviceKind.NVIDIA and device.uuid else ""
    return {"GPU_MESH_WORKER_DEVICE": json.dumps(device.to_dict()), "CUDA_VISIBLE_DEVICES": visible}
