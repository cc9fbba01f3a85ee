"""A node of two pretended GPUs, run as an operator would, and the session's Redis between its tests."""

from __future__ import annotations

import contextlib
import gc
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from processes import START_S, gpu_mesh
from waiting import wait_for

from gpu_mesh.domain.queues import list_names
from gpu_mesh.services.lookup import known_queues
from gpu_mesh.settings import settings
from gpu_mesh.store import keys
from gpu_mesh.store.client import connect
from workers.stop_signals import ECHO_S

NODE = "pair"
#: gpu0, which offers 23 GB to a job, and gpu1 with 39.
DEVICES = "fake:RTX 4090:24,fake:A40:40"
RTX_4090, A40 = f"gpu0@{NODE}", f"gpu1@{NODE}"


@contextmanager
def two_gpus(folder: Path) -> Iterator[Path]:
    """The node with both its workers ready; gives its log. Ended with the block."""
    log = folder / "worker.log"
    env = {"GPU_MESH_INCLUDE": "sample_tasks,canvas_tasks", "NODE_NAME": NODE}
    with gpu_mesh("worker", "--devices", DEVICES, log=log, env=env) as process:
        try:
            for worker in (RTX_4090, A40):
                wait_for(
                    lambda name=worker: f"{name} ready" in log.read_text() or process.poll() is not None,
                    f"{worker} in {log}",
                    START_S,
                )
            assert process.poll() is None, log.read_text()
            yield log
        finally:
            # Results that lie in cycles unsubscribe when they are collected: while their Redis is there.
            gc.collect()
            # The first of two: the second, once it is no echo of this one, stops the node at once.
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2 * ECHO_S)


def purge() -> None:
    """Forget all tasks that wait or ended; nodes, workers and their subscriptions stay."""
    with connect(settings()) as client:
        waiting = [name for queue in known_queues(settings()) for name in list_names(queue)]
        client.delete(
            *waiting, keys.FINISHED, keys.DELAYED, keys.LATER, *client.scan_iter("celery-task-meta-*", count=1000)
        )


def lists() -> dict[str, int]:
    """Every Redis list there is but the mesh's own, and its length."""
    with connect(settings()) as client:
        names = client.scan_iter(count=1000, _type="LIST")
        return {name: client.llen(name) for name in names if not name.startswith(keys.PREFIX)}
