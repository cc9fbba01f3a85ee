"""The REST API."""

from pydantic import BaseModel

from gpu_mesh.settings.sections.base import setting
from gpu_mesh.settings.types import OwnAddress

__all__ = ["ApiSettings"]


class ApiSettings(BaseModel, defer_build=True):
    """The REST API."""

    # The API
    api_enabled: bool = setting("Whether `gpu-mesh up` serves the REST API", default=True)
    api_listen: OwnAddress = setting("Address the REST API listens on", default="127.0.0.1")
    api_port: int = setting("Port of the REST API", default=8001, ge=1, le=65_535)
    api_max_wait_s: float = setting(
        "Longest that a request may wait for a task's end (`wait`)", unit="s", default=60.0, ge=0, le=3600
    )
    api_max_streams: int = setting(
        "Most streams of events that one API process serves at once; further ones are refused", default=400, ge=1
    )
    flower_enabled: bool = setting("Whether `gpu-mesh up` runs Flower, on loopback; as its `--flower`", default=False)
    flower_port: int = setting("Port of the Flower that `gpu-mesh up` runs", default=5555, ge=1, le=65_535)
