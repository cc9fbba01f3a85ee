"""Tasks: GpuTask and the built-in types. They use `shared_task` and never import the app."""

from gpu_mesh.tasks import control, embeddings, inference, probe, scripts
from gpu_mesh.tasks.base import GpuTask

__all__ = ["GpuTask", "control", "embeddings", "inference", "probe", "scripts"]
