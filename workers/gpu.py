"""The worker of one device: a Celery worker, prefork, concurrency 1 (DESIGN §1).

The parent stays responsive (inspect, revoke) while its one child runs the job.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence

from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.domain.queues import GPU_QUEUES

__all__ = ["celery_argv", "device_argv", "environment", "worker_argv"]

#: Both cost N² messages in a fleet (DESIGN §2).
_FLEET_FLAGS = ("--without-mingle", "--without-gossip")


def celery_argv(*words: str) -> list[str]:
    """What `celery -A gpu_mesh …` does, run by this interpreter."""
    return [sys.executable, "-P", "-m", "workers", "--quiet", *words]


def worker_argv(name: str, queues: Sequence[str], *, concurrency: int, log_level: str) -> list[str]:
    """Command of a Celery worker `name` that consumes `queues`, in that order."""
    return celery_argv(
        "worker",
        f"--hostname={name}",
        f"--queues={','.join(queues)}",
        f"--concurrency={concurrency}",
        "--pool=prefork",
        "--task-events",
        f"--loglevel={log_level}",
        *_FLEET_FLAGS,
    )


def device_argv(device: Device, *, log_level: str) -> list[str]:
    """Command of a device's worker."""
    return worker_argv(device.worker, GPU_QUEUES, concurrency=1, log_level=log_level)


def environment(device: Device) -> Mapping[str, str]:
    """What a device's worker finds in its environment: its device, and no other one visible."""
    visible = device.uuid if device.kind is DeviceKind.NVIDIA and device.uuid else ""
    return {"GPU_MESH_WORKER_DEVICE": json.dumps(device.to_dict()), "CUDA_VISIBLE_DEVICES": visible}
