"""GPU Mesh: a Celery task queue on Redis that gives each GPU the right job at the right moment.

from gpu_mesh import submit
submit("embeddings", ["a text"], priority=7, memory_gb=2).result(timeout=60)

from gpu_mesh import app                      # the Celery app; importing it makes it the current one
from gpu_mesh.tasks.embeddings import embeddings
embeddings.delay(["a text"]).get()

from gpu_mesh.tasks.inference import llm_inference
for piece in gpu_mesh.stream(llm_inference.delay("Say hello")): print(piece, end="")
"""

from collections.abc import Iterator

from celery.result import AsyncResult

from gpu_mesh.celery import app
from gpu_mesh.domain.device import Device
from gpu_mesh.domain.requirements import Fit, Requirements, fits
from gpu_mesh.errors import MeshError
from gpu_mesh.sdk.calls import Call, submit, submit_many
from gpu_mesh.sdk.job import Job
from gpu_mesh.sdk.mesh import Mesh
from gpu_mesh.services.following import Piece, follow
from gpu_mesh.settings import Settings, settings
from gpu_mesh.tasks.base import GpuTask
from gpu_mesh.tasks.checkpointing import Preempted

__all__ = [
    "Call",
    "Device",
    "Fit",
    "GpuTask",
    "Job",
    "Mesh",
    "MeshError",
    "Piece",
    "Preempted",
    "Requirements",
    "Settings",
    "__version__",
    "app",
    "fits",
    "settings",
    "stream",
    "submit",
    "submit_many",
]

__version__ = "0.1.0"


def stream(task: str | AsyncResult, *, timeout: float | None = None) -> Iterator[Piece]:
    """What a task says while it runs, piece by piece, to its end; `task` is its id, or what `delay` gave.

    The texts since the last piece with `restart`, put together, are the result's text. Raises BrokerUnavailable; from
    the iterator what `AsyncResult.get` raises, also Celery's TimeoutError, where the task has not ended `timeout` s
    after the call.
    """
    return follow(app, settings(), task, timeout_s=timeout)
