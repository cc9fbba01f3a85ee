"""How the text of a variable becomes a value, and what it may be: one type per kind of setting.

What a type refuses it says as what is expected; `reading` adds the setting's name and its value.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from gpu_mesh.domain import channels
from gpu_mesh.domain.addresses import check_broker_url, check_http_url
from gpu_mesh.domain.alerts import Level
from gpu_mesh.domain.commands import parse as parse_commands
from gpu_mesh.domain.devicespec import parse as parse_devices
from gpu_mesh.domain.queues import CONTROL_QUEUE, GPU_QUEUES
from gpu_mesh.domain.windows import PeakHours
from gpu_mesh.errors import InvalidSetting

__all__ = [
    "ENGINES",
    "AlertUrls",
    "Broker",
    "Commands",
    "CpuQueues",
    "DeviceList",
    "EngineNames",
    "EngineUrls",
    "Figures",
    "File",
    "Folder",
    "Hours",
    "HttpUrl",
    "Labels",
    "LogPath",
    "Modules",
    "Names",
    "NodeName",
    "Origins",
    "OwnAddress",
    "Secret",
    "Text",
    "Zone",
]

#: What runs models, best first: an Ollama may unload, an OpenAI-compatible server not, this process only embeds.
ENGINES = ("ollama", "openai", "local")
#: An empty list, where an empty variable means the default.
NONE = "none"
_NODE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_QUEUE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))


def _unset(value: object) -> object:
    """Nothing, where compose or a shell hands over an empty variable."""
    return None if isinstance(value, str) and not value.strip() else value


def _queues(value: object) -> object:
    return () if value == NONE else _split(value)


def _file_or_none(value: object) -> object:
    return None if value == NONE else value


def _folder(value: object) -> object:
    if _unset(value) is None:
        raise ValueError("a folder, as in /var/lib/gpu-mesh")
    return value


def _own_address(value: str) -> str:
    try:
        return value if value == "localhost" else str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError("an IP address of this machine, 0.0.0.0 for all of them, or localhost") from None


def _origins(value: tuple[str, ...]) -> tuple[str, ...]:
    for origin in value:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.hostname or origin != f"{parts.scheme}://{parts.netloc}":
            raise ValueError("origins such as https://ops.example.com, no path behind them, separated by commas")
        if parts.username is not None or origin != origin.lower():
            raise ValueError("origins as browsers send them: lower case, no user, such as https://ops.example.com")
    return value


def _pairs(value: object) -> object:
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if not all(sign and name.strip() and held.strip() for name, sign, held in pairs):
        raise ValueError("name=value pairs separated by commas")
    names = [name.strip() for name, _, _ in pairs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"each name once; {twice} is there twice")
    return {name.strip(): held.strip() for name, _, held in pairs}


def _engine_names(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value or not set(value) <= set(ENGINES):
        raise ValueError(f"one or more of {', '.join(ENGINES)}, the preferred one first, separated by commas")
    return value


def _engine_urls(value: dict[str, str]) -> dict[str, str]:
    for device, url in value.items():
        parts = urlsplit(check_http_url(url) or "")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError(f"addresses without user, password and query, as in {device}=http://127.0.0.1:11434")
    return {device: url.rstrip("/") for device, url in value.items()}


def _node_name(value: str) -> str:
    if not _NODE_NAME.fullmatch(value):
        raise ValueError("letters, digits, '.', '_' and '-', at most 63")
    return value


def _hours(value: str) -> str:
    return str(PeakHours.parse(value))


def _zone(value: str) -> str:
    if value != "local":
        try:
            ZoneInfo(value)
        except (ValueError, OSError, KeyError):
            raise ValueError("a time zone such as Europe/Berlin, or local") from None
    return value


def _devices(value: str) -> str:
    try:
        parse_devices(value)
    except InvalidSetting as exc:
        raise ValueError(exc.remedy) from None
    return value


def _commands(value: str | None) -> str | None:
    if value is not None:
        parse_commands(value)
    return value


def _cpu_queues(value: tuple[str, ...]) -> tuple[str, ...]:
    for name in value:
        if not _QUEUE_NAME.fullmatch(name):
            raise ValueError("queue names of letters, digits, '.', '_' and '-', separated by commas")
        if name in (*GPU_QUEUES, CONTROL_QUEUE):
            raise ValueError(f"queue names other than the mesh's own ({', '.join((*GPU_QUEUES, CONTROL_QUEUE))})")
    return value


def _modules(value: tuple[str, ...]) -> tuple[str, ...]:
    for name in value:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError("names of modules as Python imports them, such as shop.tasks, separated by commas")
    return value


def _alert_urls(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        channels.parse(value.get_secret_value(), Level.INFO)
    return value


AlertUrls = Annotated[SecretStr | None, BeforeValidator(_unset), AfterValidator(_alert_urls)]
Broker = Annotated[str | None, BeforeValidator(_unset), AfterValidator(check_broker_url)]
File = Annotated[Path | None, BeforeValidator(_unset)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Commands = Annotated[str | None, BeforeValidator(_unset), AfterValidator(_commands)]
CpuQueues = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_queues), AfterValidator(_cpu_queues)]
Labels = Annotated[dict[str, str], NoDecode, BeforeValidator(_pairs)]
Text = Annotated[str | None, BeforeValidator(_unset)]
EngineUrls = Annotated[dict[str, str], NoDecode, BeforeValidator(_pairs), AfterValidator(_engine_urls)]
Figures = Annotated[dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]], NoDecode, BeforeValidator(_pairs)]
DeviceList = Annotated[str, AfterValidator(_devices)]
EngineNames = Annotated[Names, AfterValidator(_engine_names)]
Folder = Annotated[Path, BeforeValidator(_folder)]
Hours = Annotated[str, AfterValidator(_hours)]
HttpUrl = Annotated[str | None, BeforeValidator(_unset), AfterValidator(check_http_url)]
LogPath = Annotated[Path | None, BeforeValidator(_file_or_none)]
Modules = Annotated[Names, AfterValidator(_modules)]
NodeName = Annotated[str, AfterValidator(_node_name)]
Origins = Annotated[Names, AfterValidator(_origins)]
OwnAddress = Annotated[str, AfterValidator(_own_address)]
Secret = Annotated[SecretStr | None, BeforeValidator(_unset)]
Zone = Annotated[str, AfterValidator(_zone)]
