"""Health of nodes and devices."""

from pydantic import BaseModel

from gpu_mesh.settings.sections.base import setting
from gpu_mesh.settings.types import Commands, EngineUrls

__all__ = ["HealthSettings"]


class HealthSettings(BaseModel, defer_build=True):
    """Health of nodes and devices."""

    health_every_s: float = setting(
        "How often all nodes are checked; three failed checks make one unhealthy",
        unit="s",
        default=30.0,
        ge=0.2,
        le=3600,
    )
    watch_urls: EngineUrls = setting(
        "Addresses of engines that are watched though no worker of the mesh serves them, as "
        "`a40=http://10.8.0.2:11434`; devices of the mesh are watched anyway",
        default={},
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
