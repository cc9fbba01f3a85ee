"""How the mesh looks after itself."""

from pydantic import BaseModel

from gpu_mesh.settings.sections.base import setting

__all__ = ["HealthSettings"]


class HealthSettings(BaseModel, defer_build=True):
    """How the mesh looks after itself."""

    health_every_s: float = setting(
        "How often all nodes, devices and engines are checked", unit="s", default=30.0, ge=0.2, le=3600
    )
