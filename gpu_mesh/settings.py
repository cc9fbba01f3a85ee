"""Every setting of the mesh: one name, one place, one unit. Frozen once read.

Values come from the environment (`GPU_MESH_…`, and the plain names of SPEC N2), else from `.env` in the
working folder, else from the defaults below. An empty variable is an unset one: compose hands over
`${GPU_MESH_DEVICES:-}`. An unknown `GPU_MESH_*` name is refused: it is a typing error
that would otherwise pass in silence.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import socket
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

from dotenv import dotenv_values
from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gpu_mesh.domain.addresses import check_broker_url, check_http_url, mask
from gpu_mesh.domain.devicespec import parse as parse_devices
from gpu_mesh.domain.queues import CONTROL_QUEUE, GPU_QUEUES
from gpu_mesh.domain.windows import PeakHours
from gpu_mesh.errors import InvalidSetting

__all__ = ["PREFIX", "Settings", "env_name", "load", "mask", "names_of", "read_dotenv", "settings", "unit_of"]

PREFIX = "GPU_MESH_"
#: What a script finds in its environment is no setting: it may use the mesh itself.
SET_FOR_SCRIPTS = frozenset({"GPU_MESH_TASK_ID"})
#: What runs models, best first: an Ollama may unload, an OpenAI-compatible server not, this process only embeds.
ENGINES = ("ollama", "openai", "local")
#: An empty list, where an empty variable means the default.
NONE = "none"
#: Results are kept for ten years at most, s; Redis takes no infinity.
LONGEST_EXPIRY_S = 315_360_000.0
_NODE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_QUEUE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SECRET_NAME = re.compile(r"PASS|SECRET|TOKEN|_KEY$", re.IGNORECASE)


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))


def _unset(value: object) -> object:
    """Nothing, where compose or a shell hands over an empty variable."""
    return None if isinstance(value, str) and not value.strip() else value


def _queues(value: object) -> object:
    return () if value == NONE else _split(value)


def _folder(value: object) -> object:
    if _unset(value) is None:
        raise ValueError("a folder, as in /var/lib/gpu-mesh")
    return value


def _own_address(value: str) -> str:
    try:
        return value if value == "localhost" else str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError("an IP address of this machine, 0.0.0.0 for all of them, or localhost") from None


def _pairs(value: object) -> object:
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if not all(sign and name.strip() and held.strip() for name, sign, held in pairs):
        raise ValueError("name=value pairs separated by commas")
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


def _checked(rule: re.Pattern[str], allowed: str) -> AfterValidator:
    def check(value: str) -> str:
        if not rule.fullmatch(value):
            raise ValueError(allowed)
        return value

    return AfterValidator(check)


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
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "gpu-mesh"
    except RuntimeError:  # neither HOME nor an entry in passwd
        raise InvalidSetting(
            env_name("state_dir"), "", "this user has no home folder: name a folder, as in /var/lib/gpu-mesh"
        ) from None


Broker = Annotated[str | None, BeforeValidator(_unset), AfterValidator(check_broker_url)]
File = Annotated[Path | None, BeforeValidator(_unset)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
CpuQueues = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_queues), AfterValidator(_cpu_queues)]
Labels = Annotated[dict[str, str], NoDecode, BeforeValidator(_pairs)]
Text = Annotated[str | None, BeforeValidator(_unset)]
EngineUrls = Annotated[dict[str, str], NoDecode, BeforeValidator(_pairs), AfterValidator(_engine_urls)]
Figures = Annotated[dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]], NoDecode, BeforeValidator(_pairs)]


def _setting(description: str, *, unit: str = "", names: tuple[str, ...] = (), **limits: Any) -> Any:
    """One setting with its metadata; `names` where SPEC N2 orders a plain one beside ours."""
    if names:
        limits["validation_alias"] = AliasChoices(*names)
    return Field(description=description, json_schema_extra={"unit": unit}, **limits)


class Settings(BaseSettings):
    """All settings, checked. Build it with `load`, which also refuses unknown names."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        validate_default=True,
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
    listen: Annotated[str, AfterValidator(_own_address)] = _setting(
        "Address the embedded Redis listens on besides loopback", default="127.0.0.1"
    )
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
    coordinator_url: Annotated[str | None, BeforeValidator(_unset), AfterValidator(check_http_url)] = _setting(
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
    models: Labels = _setting(
        "Models that a device is kept for, as `gpu0=gemma4:e4b,gpu1=gemma4:12b|gemma4:27b`; one not named runs any",
        default={},
    )
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
    cpu_queues: CpuQueues = _setting(
        "Queues that need no GPU; `none` for no such queue", default=("rfa-reminders", "rfa-distribution")
    )
    cpu_concurrency: int = _setting("Tasks of the CPU queues run at once on this node", default=2, ge=1, le=256)
    node_refresh_s: float = _setting("How often a node renews its registration", unit="s", default=5.0, gt=0, le=3600)
    node_ttl_s: float = _setting("Silence after which a node counts as offline", unit="s", default=20.0, gt=0, le=86400)
    stop_timeout_s: float = _setting(
        "How long a stopping worker's job may go on; then it is ended and handed back",
        unit="s",
        default=60.0,
        ge=0,
        le=86400,
    )

    # Engines
    engines: Annotated[Names, AfterValidator(_engine_names)] = _setting(
        "Engines to use, the preferred one first: `ollama`, `openai` (vLLM, llama.cpp, LM Studio), `local`",
        default=ENGINES,
    )
    engine_urls: EngineUrls = _setting(
        "Address of each device's own engine, as `gpu0=http://127.0.0.1:11434,gpu1=http://127.0.0.1:11435`; a device "
        "not named takes what is found on this machine's usual ports",
        default={},
    )
    engine_key: Annotated[SecretStr | None, BeforeValidator(_unset)] = _setting(
        "Key for OpenAI-compatible servers; sent only to addresses named in a setting", default=None
    )
    engine_timeout_s: float = _setting(
        "How long an engine may be silent while it works, the loading of a model included",
        unit="s",
        default=300.0,
        gt=0,
        le=86_400,
    )
    engine_check_timeout_s: float = _setting(
        "How long an engine may take to say how it is", unit="s", default=5.0, gt=0, le=60
    )
    engine_pull: bool = _setting("Whether Ollama may fetch a model that it does not have", default=False)
    keep_alive_s: float | None = _setting(
        "How long Ollama keeps a model after its last use; below 0: for ever. Unset: as that Ollama is set",
        unit="s",
        default=None,
        allow_inf_nan=False,
    )
    embed_model: Text = _setting("Model that embeds where a task names none. Unset: the first that can", default=None)
    resident_models: Names = _setting(
        "Models that stay in a device's memory beside the one main model, such as `nomic-embed-text`", default=()
    )
    chat_model: Text = _setting(
        "Model that generates where a task names none. Unset: a loaded one, else the newest", default=None
    )

    # Claims
    lease_ttl_s: float = _setting(
        "How long a worker's lease holds without a sign of life; then its jobs run elsewhere",
        unit="s",
        default=10.0,
        ge=0.5,
        le=3600,
    )
    aging_horizon_s: float = _setting(
        "Waiting after which a task has the highest score of its class", unit="s", default=1800.0, gt=0, le=86_400 * 7
    )
    affinity_s: float = _setting(
        "How long the oldest task of a class may wait while tasks for the loaded model go first",
        unit="s",
        default=60.0,
        ge=0,
        le=86_400,
    )
    gather_s: float = _setting(
        "How long a node's idle devices are kept for a task that needs several; then others go first for as long",
        unit="s",
        default=60.0,
        ge=0,
        le=86_400,
    )
    max_deliveries: int = _setting(
        "How often a message that kills its worker is handed out before it goes to the dead letters",
        unit="deliveries",
        default=5,
        ge=1,
        le=1000,
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
    checkpoint_max_mb: float = _setting(
        "Largest state that a task may save as its checkpoint, as JSON", unit="MB", default=1.0, gt=0, le=100
    )
    checkpoint_expires_s: float = _setting(
        "How long the checkpoint of a task that does not end is kept",
        unit="s",
        default=604_800.0,
        ge=1,
        le=LONGEST_EXPIRY_S,
    )
    # Scripts
    scripts_dir: File = _setting(
        "Folder of the scripts that `custom` and `training` run by name. Unset: this node runs none", default=None
    )
    script_env: Names = _setting(
        "Names passed on to scripts from the worker's environment, beside the harmless ones", default=()
    )
    script_grace_s: float = _setting(
        "How long a script that is asked to stop may take to save; then it is killed",
        unit="s",
        default=30.0,
        ge=0,
        le=3600,
    )
    script_result_max_mb: float = _setting("Largest result of a script", unit="MB", default=1.0, gt=0, le=100)
    custom_limit_s: float = _setting(
        "How long a `custom` script may run, where its caller sets no limit",
        unit="s",
        default=600.0,
        gt=0,
        le=31_536_000,
    )
    training_limit_s: float = _setting(
        "How long one run of a `training` script may take, where its caller sets no limit",
        unit="s",
        default=86_400.0,
        gt=0,
        le=31_536_000,
    )
    checkpoint_dir: File = _setting(
        "Folder of the files that `training` scripts keep for their next run; shared by the nodes, another one can go "
        "on. Unset: in the state folder",
        default=None,
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
    in_file = read_dotenv(dotenv)
    found = {**in_file, **{name: value for name, value in os.environ.items() if value or name not in in_file}}
    _refuse_unknown(found)
    try:
        return Settings(_env_file=dotenv if in_file else None)
    except ValidationError as exc:
        raise _refusal(exc, found) from None


@cache
def settings() -> Settings:
    """This process's settings, read once."""
    return load()


def read_dotenv(path: str | Path | None) -> dict[str, str | None]:
    """What a `.env` file sets; nothing where there is no file, or none that this user may see.

    Raises InvalidSetting for a file that cannot be read.
    """
    try:
        if path is None or not Path(path).is_file():
            return {}
    except OSError:  # a folder this user may not enter, before Python 3.14
        return {}
    try:
        return dotenv_values(path)
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidSetting(".env", str(path), f"cannot be read ({exc}): expected a file of UTF-8 lines") from None


def _refuse_unknown(found: Mapping[str, str | None]) -> None:
    known = [field.upper() for field in Settings.model_fields]
    for name in sorted(found.keys() - SET_FOR_SCRIPTS):
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
    field = next(name for name in Settings.model_fields if where[0] in (name, *names_of(name)))
    typed = {name.upper(): name for name, held in found.items() if held}
    name = next((name for name in names_of(field) if name in typed), env_name(field))
    if len(where) > 1:  # one of several pairs
        value = f"{where[1]}={value}"
    if remedy.startswith("Input should be "):  # pydantic's own words
        remedy = remedy.removeprefix("Input should be ").partition(", unable")[0]
        remedy += f" ({unit_of(field)})" if unit_of(field) else ""
    return InvalidSetting(name, mask(value) if isinstance(value, str) else value, remedy)


def names_of(field: str) -> tuple[str, ...]:
    """Every environment variable that sets a setting, ours first."""
    alias = Settings.model_fields[field].validation_alias
    return tuple(map(str, alias.choices)) if isinstance(alias, AliasChoices) else (env_name(field),)


def unit_of(field: str) -> str:
    """The unit of a setting; empty where it has none."""
    extra = Settings.model_fields[field].json_schema_extra
    return str(extra.get("unit", "")) if isinstance(extra, dict) else ""
