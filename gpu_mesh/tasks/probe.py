"""The `test` task type: proves the path from caller to device and back, and says where it ran (SPEC T)."""

from __future__ import annotations

import os
import platform
from typing import Any

from celery import shared_task

from gpu_mesh.tasks.base import GpuTask

__all__ = ["probe"]


@shared_task(name="test", bind=True, gpu_count=0, remote=True)
def probe(self: GpuTask, echo: Any = None) -> dict[str, Any]:
    """Return `echo` (any JSON) with worker, node, device, device type and process that ran it."""
    device = self.device
    return {
        "echo": echo,
        "worker": self.request.hostname,
        "node": device.node if device else platform.node(),
        "device": device.name if device else None,
        "gpu_type": device.gpu_type if device else None,
        "pid": os.getpid(),
    }
