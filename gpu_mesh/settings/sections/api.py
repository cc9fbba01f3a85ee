"""The REST API."""

from typing import Self

from pydantic import BaseModel, model_validator

from gpu_mesh.settings.sections.base import env_name, setting
from gpu_mesh.settings.types import File, Origins, OwnAddress

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
    api_origins: Origins = setting(
        "Origins whose pages a browser may let use the REST API, such as `https://ops.example.com`", default=()
    )
    api_rate: float = setting(
        "Requests a second that one token may make, twice as many at once", unit="1/s", default=500.0, gt=0, le=1e6
    )
    api_max_requests: int = setting(
        "Requests answered at the same time, waiting ones too", default=512, ge=8, le=65_536
    )
    api_slow_s: float = setting(
        "Longest that a request's head, or a pause within its body or its answer, may take",
        unit="s",
        default=10.0,
        gt=0,
        le=3600,
    )
    api_tls_cert_file: File = setting("Certificate of the REST API, with its chain, PEM: serves HTTPS", default=None)
    api_tls_key_file: File = setting("Private key of that certificate, PEM", default=None)

    @model_validator(mode="after")
    def _has_both(self) -> Self:
        for name, other in (
            ("api_tls_cert_file", "api_tls_key_file"),
            ("api_tls_key_file", "api_tls_cert_file"),
        ):
            if getattr(self, name) is None and getattr(self, other) is not None:
                raise ValueError(f"{name}: set it too, where {env_name(other)} is set")
        return self
