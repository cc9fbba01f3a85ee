"""GPU Mesh: a Celery task queue on Redis that gives each GPU the right job at the right moment.

from gpu_mesh import app                      # the Celery app; importing it makes it the current one
from gpu_mesh.tasks.embeddings import embeddings
embeddings.delay(["a text"]).get()
"""

from gpu_mesh.celery import app
from gpu_mesh.domain.device import Device
from gpu_mesh.domain.requirements import Fit, Requirements, fits
from gpu_mesh.errors import MeshError
from gpu_mesh.settings import Settings, settings
from gpu_mesh.tasks.base import GpuTask
from gpu_mesh.tasks.checkpointing import Preempted

__all__ = [
    "Device",
    "Fit",
    "GpuTask",
    "MeshError",
    "Preempted",
    "Requirements",
    "Settings",
    "__version__",
    "app",
    "fits",
    "settings",
]

__version__ = "0.1.0"
