"""The one log file of a machine."""

from pathlib import Path

from pydantic import BaseModel

from gpu_mesh.settings.sections.base import setting
from gpu_mesh.settings.types import LogPath

__all__ = ["LogSettings"]


class LogSettings(BaseModel, defer_build=True):
    """The one log file of a machine."""

    # The log
    log_file: LogPath = setting(
        "File that everything on this machine logs to, within GPU_MESH_STATE_DIR; `none` for no file",
        default=Path("log/mesh.log"),
    )
    log_days: int = setting("How long logs are kept", unit="days", default=7, ge=1, le=3650)
    log_max_mb: float = setting(
        "Most that the log takes on the disk, all days together; the oldest goes first",
        unit="MB",
        default=100.0,
        ge=1,
        le=100_000,
    )
