"""Every setting: one name, one place, one unit. Frozen once read; `reading.load` reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydantic import model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from gpu_mesh.domain.addresses import mask
from gpu_mesh.settings.sections.alerts import AlertSettings
from gpu_mesh.settings.sections.api import ApiSettings
from gpu_mesh.settings.sections.base import PREFIX, env_name
from gpu_mesh.settings.sections.claims import ClaimSettings
from gpu_mesh.settings.sections.engines import EngineSettings
from gpu_mesh.settings.sections.health import HealthSettings
from gpu_mesh.settings.sections.logs import LogSettings
from gpu_mesh.settings.sections.node import NodeSettings
from gpu_mesh.settings.sections.tasks import TaskSettings

__all__ = ["PREFIX", "Settings", "env_name"]


# The fields of the last base come first.
class Settings(
    ApiSettings,
    LogSettings,
    AlertSettings,
    TaskSettings,
    HealthSettings,
    ClaimSettings,
    EngineSettings,
    NodeSettings,
    BaseSettings,
):
    """All settings, checked. Build it with `load`, which also refuses unknown names."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        validate_default=True,
        defer_build=False,
    )

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        for name, value in super().__repr_args__():
            yield str(name), mask(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _agree(self) -> Settings:
        if self.node_ttl_s <= self.node_refresh_s:
            refresh = f"{env_name('node_refresh_s')} ({self.node_refresh_s:g} s)"
            raise ValueError(f"node_ttl_s: longer than {refresh}, in seconds")
        if self.log_file is not None and (self.state_dir / self.log_file).is_dir():
            raise ValueError("log_file: the name of a file; a folder is there")
        for name in ("broker_url", "result_url"):
            for url in map(urlsplit, (getattr(self, name) or "").split(";")):
                if url.scheme == "rediss" and not self.tls_ca_file and "ssl_cert_reqs" not in parse_qs(url.query):
                    raise ValueError(f"{name}: with rediss:// name the authority's certificate in {PREFIX}TLS_CA_FILE")
        return self
