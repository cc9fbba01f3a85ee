"""How the mesh looks after itself."""

from pydantic import BaseModel

from gpu_mesh.settings.sections.base import setting
from gpu_mesh.settings.types import Commands

__all__ = ["HealthSettings"]


class HealthSettings(BaseModel, defer_build=True):
    """How the mesh looks after itself."""

    health_every_s: float = setting(
        "How often all nodes, devices and engines are checked", unit="s", default=30.0, ge=0.2, le=3600
    )
    engine_restart: Commands = setting(
        "Command that restarts this node's engine when it does not answer, as `systemctl --user restart ollama` or the "
        "server itself, `ollama serve`; one for each device as `gpu0=COMMAND; gpu1=COMMAND`. Words, no shell. Unset: "
        "nobody restarts it",
        default=None,
    )
    engine_restart_timeout_s: float = setting(
        "How long after the restart's beginning an engine may take to answer", unit="s", default=60.0, ge=0.1, le=3600
    )
