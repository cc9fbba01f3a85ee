"""Every setting of the mesh: one name, one place, one unit. Frozen once read.

Values come from the environment (`GPU_MESH_…`, and the plain names of SPEC N2), else from `.env` in the
working folder, else from the defaults below. An unknown `GPU_MESH_*` name is refused: it is a typing error
that would otherwise pass in silence.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

from dotenv import dotenv_values
from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gpu_mesh.domain.devicespec import parse as parse_devices
from gpu_mesh.domain.queues import CONTROL_QUEUE, GPU_QUEUES
from gpu_mesh.domain.windows import PeakHours
from gpu_mesh.errors import InvalidSetting

__all__ = ["BROKER_SCHEMES", "PREFIX", "SettingRow", "Settings", "env_name", "load", "mask", "rows", "settings"]

PREFIX = "GPU_MESH_"
#: What a broker address may begin with (DESIGN §4).
BROKER_SCHEMES = ("redis", "rediss", "redis+socket", "sentinel")
#: Results are kept for ten years at most, s; Redis takes no infinity.
LONGEST_EXPIRY_S = 315_360_000.0
_NODE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_QUEUE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
#: Where another URL begins: a password may itself hold `://`.
_NEXT_URL = re.compile(r"(?<=[\s;,])(?=(?:redis|rediss|redis\+socket|sentinel|unix|https?)://)")
_SECRET_IN_QUERY = re.compile(r"([?&][^=&]*password[^=&]*=)[^&]*", re.IGNORECASE)
_USER_INFO = re.compile(r"(?<=://)([^:@/]*:)?.*@", re.DOTALL)
_SECRET_NAME = re.compile(r"PASS|SECRET|TOKEN", re.IGNORECASE)


def mask(text: str) -> str:
    """`text` with the password of every URL in it hidden, also where the URL is written wrongly.

    Rather too much than too little: all between the user and the last `@`, and a user without a password.
    """
    parts = (_SECRET_IN_QUERY.sub(r"\1***", part) for part in _NEXT_URL.split(text))
    return "".join(_USER_INFO.sub(lambda found: f"{found[1] or ''}***@", part) for part in parts)


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))


def _unset(value: object) -> object:
    """Nothing, where compose or a shell hands over an empty variable."""
    return None if isinstance(value, str) and not value.strip() else value


def _folder(value: object) -> object:
    if _unset(value) is None:
        raise ValueError("a folder, as in /var/lib/gpu-mesh")
    return value


def _pairs(value: object) -> object:
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if not all(sign and name.strip() and held.strip() for name, sign, held in pairs):
        raise ValueError("name=value pairs separated by commas")
    return {name.strip(): held.strip() for name, _, held in pairs}


def _checked(rule: re.Pattern[str], allowed: str) -> AfterValidator:
    def check(value: str) -> str:
        if not rule.fullmatch(value):
            raise ValueError(allowed)
        return value

    return AfterValidator(check)


def _broker(value: str | None) -> str | None:
    urls = [url.strip() for url in value.split(";")] if value else []
    for url in urls:
        scheme = url.partition("://")[0]
        if scheme not in BROKER_SCHEMES or "://" not in url:
            raise ValueError(f"an address that begins with {', '.join(f'{name}://' for name in BROKER_SCHEMES)}")
        if scheme == "redis+socket":
            if not urlsplit(url).path:
                raise ValueError("an address with the socket's path, as in redis+socket:///run/redis.sock")
        elif not _located(url):
            raise ValueError(
                "an address with a host and a port from 1 to 65535, as in redis://:password@host:6379/0 "
                "(in a password, write / as %2F, @ as %40, ; as %3B, # as %23)"
            )
        elif not re.fullmatch(r"/?[0-9]*", urlsplit(url).path):
            raise ValueError("an address that ends with the number of a database, as in redis://host:6379/0")
    return ";".join(urls) or None


def _http(value: str | None) -> str | None:
    if value is not None and (not value.startswith(("http://", "https://")) or not _located(value)):
        raise ValueError("an http:// or https:// address with a host, as in http://lead:8001")
    return value


def _located(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets without an IPv6 address, or no number from 0 to 65535 as the port
        return False


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


def _default_node_name() -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", socket.gethostname()).strip(".-")[:63] or "node"


def _default_state_dir() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "gpu-mesh"


Broker = Annotated[str | None, BeforeValidator(_unset), AfterValidator(_broker)]
File = Annotated[Path | None, BeforeValidator(_unset)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Labels = Annotated[dict[str, str], NoDecode, BeforeValidator(_pairs)]
Figures = Annotated[dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]], NoDecode, BeforeValidator(_pairs)]


def _setting(description: str, *, unit: str = "", names: tuple[str, ...] = (), **limits: Any) -> Any:
    """One setting with its metadata; `names` where SPEC N2 orders a plain one beside ours."""
    if names:
        limits["validation_alias"] = AliasChoices(*names)
    return Field(description=description, json_schema_extra={"unit": unit}, **limits)


class Settings(BaseSettings):
    """All settings, checked. Build it with `load`, which also refuses unknown names."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True, populate_by_name=True, validate_default=True
    )

    # The broker
    broker_url: Broker = _setting(
        "Address of Redis; several for failover are separated by `;`. Unset: the embedded Redis of `gpu-mesh up`",
        default=None,
    )
    result_url: Broker = _setting("Where results are kept. Unset: in the broker", default=None)
    tls_ca_file: File = _setting("Authority that signed Redis's certificate, for rediss://", default=None)
    tls_cert_file: File = _setting("Our own certificate, where Redis asks for one", default=None)
    tls_key_file: File = _setting("Key of our own certificate", default=None)
    sentinel_master: str = _setting("Name of the master that sentinel:// asks for", default="mymaster")
    listen: str = _setting("Address the embedded Redis listens on besides loopback", default="127.0.0.1")
    state_dir: Annotated[Path, BeforeValidator(_folder)] = _setting(
        "Folder for the embedded Redis, its password and beat's schedule", default_factory=_default_state_dir
    )

    # This node
    node_name: Annotated[str, _checked(_NODE_NAME, "letters, digits, '.', '_' and '-', at most 63")] = _setting(
        "Name of this machine, unique in the mesh",
        names=("GPU_MESH_NODE_NAME", "NODE_NAME"),
        default_factory=_default_node_name,
    )
    node_role: Literal["lead", "compute"] = _setting(
        "`lead` also runs the control worker and beat; `compute` only devices",
        names=("GPU_MESH_NODE_ROLE", "NODE_ROLE"),
        default="compute",
    )
    gpu_enabled: bool = _setting(
        "Whether this machine offers its GPUs; without, its CPU",
        names=("GPU_MESH_GPU_ENABLED", "GPU_ENABLED"),
        default=True,
    )
    coordinator_url: Annotated[str | None, BeforeValidator(_unset), AfterValidator(_http)] = _setting(
        "Address of the lead's REST API, for nodes that cannot reach Redis",
        names=("GPU_MESH_COORDINATOR_URL", "MESH_COORDINATOR_URL"),
        default=None,
    )
    devices: Annotated[str, AfterValidator(_devices)] = _setting(
        "Devices of this node: `auto`, or a list of `nvidia`, `apple`, `cpu`, `cpu:COUNT`, `fake:TYPE:GB`, "
        "`endpoint:TYPE:GB:URL`",
        default="auto",
    )
    labels: Labels = _setting("Labels of this node's devices, as `trust=owned,site=office`", default={})
    memory_margin_gb: float = _setting(
        "Device memory kept free of jobs", unit="GB", default=1.0, ge=0, le=1000, allow_inf_nan=False
    )
    gpu_powers: Figures = _setting(
        "Power by GPU type where the built-in table is wrong, as `RTX 4090=100`", unit="RTX 4090 = 100", default={}
    )
    gpu_costs: Figures = _setting(
        "Cost by GPU type where the built-in table is wrong, as `A40=0.4`", unit="currency/h", default={}
    )
    cpu_counts: Literal["auto", "yes", "no"] = _setting(
        "Whether a CPU may run what needs a GPU; `auto`: only while the mesh has no GPU", default="auto"
    )
    cpu_queues: Annotated[Names, AfterValidator(_cpu_queues)] = _setting(
        "Queues that need no GPU", default=("rfa-reminders", "rfa-distribution")
    )
    cpu_concurrency: int = _setting("Tasks of the CPU queues run at once on this node", default=2, ge=1, le=256)
    node_refresh_s: float = _setting("How often a node renews its registration", unit="s", default=5.0, gt=0, le=3600)
    node_ttl_s: float = _setting("Silence after which a node counts as offline", unit="s", default=20.0, gt=0, le=86400)
    stop_timeout_s: float = _setting(
        "How long a stopping worker may finish its job", unit="s", default=60.0, ge=0, le=86400
    )

    # Applications and tasks
    include: Annotated[Names, AfterValidator(_modules)] = _setting(
        "Modules with an application's tasks, loaded by every worker", default=()
    )
    submit_timeout_s: float = _setting(
        "How long a submit waits for a broker that does not answer", unit="s", default=5.0, gt=0, le=300
    )
    max_payload_mb: float = _setting("Largest arguments of one task", unit="MB", default=10.0, gt=0, le=400)
    result_expires_s: float = _setting(
        "How long results are kept", unit="s", default=86_400.0, gt=0, le=LONGEST_EXPIRY_S
    )
    embed_chunk: int = _setting("Texts embedded in one piece; more are split", unit="texts", default=256, ge=1)
    peak_hours: Annotated[str, AfterValidator(_hours)] = _setting(
        "Hours in which ai-batch is paused (takes effect with the window gates)", unit="HH:MM", default="09:00-18:00"
    )
    timezone: Annotated[str, AfterValidator(_zone)] = _setting(
        "Time zone of the peak hours, `local` for the machine's", default="local"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = _setting("How much is logged", default="INFO")
    worker_device: str | None = _setting(
        "Set by `gpu-mesh worker` for the workers it starts: the device each serves, as JSON", default=None
    )

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        for name, value in super().__repr_args__():
            yield str(name), mask(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _agree(self) -> Settings:
        if self.node_ttl_s <= self.node_refresh_s:
            refresh = f"{env_name('node_refresh_s')} ({self.node_refresh_s:g} s)"
            raise ValueError(f"node_ttl_s: longer than {refresh}, in seconds")
        for name in ("broker_url", "result_url"):
            for url in map(urlsplit, (getattr(self, name) or "").split(";")):
                if url.scheme == "rediss" and not self.tls_ca_file and "ssl_cert_reqs" not in parse_qs(url.query):
                    raise ValueError(f"{name}: with rediss:// name the authority's certificate in {PREFIX}TLS_CA_FILE")
        return self


def env_name(field: str) -> str:
    """The environment variable of a setting: `broker_url` is `GPU_MESH_BROKER_URL`."""
    return f"{PREFIX}{field.upper()}"


def load(dotenv: str | Path | None = ".env") -> Settings:
    """Settings from the environment and `dotenv`. Raises InvalidSetting naming the first one refused."""
    found = {**_dotenv(dotenv), **os.environ}
    _refuse_unknown(found)
    try:
        return Settings(_env_file=dotenv)
    except ValidationError as exc:
        raise _refusal(exc, found) from None


@cache
def settings() -> Settings:
    """This process's settings, read once."""
    return load()


def _dotenv(path: str | Path | None) -> dict[str, str | None]:
    return dotenv_values(path) if path is not None and Path(path).is_file() else {}


def _refuse_unknown(found: Mapping[str, str | None]) -> None:
    known = [field.upper() for field in Settings.model_fields]
    for name in sorted(found):
        short = name.upper().removeprefix(PREFIX)
        if name.upper().startswith(PREFIX) and short not in known:
            near = difflib.get_close_matches(short, known, n=1)
            hint = f"did you mean {env_name(near[0])}?" if near else "`gpu-mesh config` lists the names there are"
            value = "***" if _SECRET_NAME.search(name) else mask(found[name] or "")
            raise InvalidSetting(name, value, f"no such setting; {hint}")


def _refusal(exc: ValidationError, found: Mapping[str, str | None]) -> InvalidSetting:
    error = exc.errors(include_url=False)[0]
    remedy = error["msg"].removeprefix("Value error, ")
    where, value = error["loc"], error["input"]
    if not where:  # from the check across fields, which leads its message with the field's name
        field, _, remedy = remedy.partition(": ")
        value = getattr(value, field, None) if not isinstance(value, Mapping) else value.get(field)
        return InvalidSetting(env_name(field), mask(str(value)), remedy)
    field = next(name for name in Settings.model_fields if where[0] in (name, *_names(name)))
    typed = {name.upper(): name for name in found}
    name = next((name for name in _names(field) if name in typed), env_name(field))
    if len(where) > 1:  # one of several pairs
        value = f"{where[1]}={value}"
    if remedy.startswith("Input should be "):  # pydantic's own words
        remedy = remedy.removeprefix("Input should be ").partition(", unable")[0]
        remedy += f" ({_unit(field)})" if _unit(field) else ""
    return InvalidSetting(name, mask(value) if isinstance(value, str) else value, remedy)


def _names(field: str) -> tuple[str, ...]:
    alias = Settings.model_fields[field].validation_alias
    return tuple(map(str, alias.choices)) if isinstance(alias, AliasChoices) else (env_name(field),)


def _unit(field: str) -> str:
    extra = Settings.model_fields[field].json_schema_extra
    return str(extra.get("unit", "")) if isinstance(extra, dict) else ""


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One line of `gpu-mesh config` and of docs/settings.md."""

    #: All names it may be set by, ours first.
    names: tuple[str, ...]
    value: str
    source: str
    unit: str
    default: str
    description: str

    @property
    def name(self) -> str:
        """Our own name of it."""
        return self.names[0]


def rows(current: Settings, dotenv: str | Path | None = ".env") -> list[SettingRow]:
    """Every setting with value, source and unit; secrets masked."""
    in_file = {name.upper() for name in _dotenv(dotenv)}
    in_env = {name.upper() for name in os.environ}
    found = []
    for field, info in Settings.model_fields.items():
        names = _names(field)
        places = (("environment", in_env), (".env", in_file))
        source = next((f"{place}: {name}" for place, held in places for name in names if name in held), "default")
        default = "(this machine's)" if info.default_factory is not None else _shown(info.default)
        found.append(
            SettingRow(
                names=names,
                value=mask(_shown(getattr(current, field))),
                source=source,
                unit=_unit(field),
                default=default,
                description=info.description or "",
            )
        )
    return found


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, Mapping):
        return ",".join(f"{name}={_shown(held)}" for name, held in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
