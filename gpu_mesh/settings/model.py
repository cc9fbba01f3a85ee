"""Every setting: one name, one place, one unit. Frozen once read; `reading.load` reads them."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import AliasChoices, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from gpu_mesh.domain.addresses import mask
from gpu_mesh.domain.holds import PauseScope
from gpu_mesh.errors import InvalidSetting
from gpu_mesh.settings.types import (
    ENGINES,
    Broker,
    CpuQueues,
    DeviceList,
    EngineNames,
    EngineUrls,
    Figures,
    File,
    Folder,
    Hours,
    HttpUrl,
    Labels,
    Modules,
    Names,
    NodeName,
    OwnAddress,
    Secret,
    Text,
    Zone,
)

__all__ = ["PREFIX", "Settings", "env_name"]

PREFIX = "GPU_MESH_"
#: Results are kept for ten years at most, s; Redis takes no infinity.
LONGEST_EXPIRY_S = 315_360_000.0


def env_name(field: str) -> str:
    """The environment variable of a setting: `broker_url` is `GPU_MESH_BROKER_URL`."""
    return f"{PREFIX}{field.upper()}"


def _default_node_name() -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", socket.gethostname()).strip(".-")[:63] or "node"


def _default_state_dir() -> Path:
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "gpu-mesh"
    except RuntimeError:  # neither HOME nor an entry in passwd
        raise InvalidSetting(
            env_name("state_dir"), "", "this user has no home folder: name a folder, as in /var/lib/gpu-mesh"
        ) from None


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
    listen: OwnAddress = _setting("Address the embedded Redis listens on besides loopback", default="127.0.0.1")
    state_dir: Folder = _setting(
        "Folder for the embedded Redis, its password and beat's schedule", default_factory=_default_state_dir
    )

    # This node
    node_name: NodeName = _setting(
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
    coordinator_url: HttpUrl = _setting(
        "Address of the lead's REST API, for nodes that cannot reach Redis",
        names=("GPU_MESH_COORDINATOR_URL", "MESH_COORDINATOR_URL"),
        default=None,
    )
    devices: DeviceList = _setting(
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
    lock_dir: Folder = _setting(
        "Folder of the locks that keep a device to one job at a time; the same for all users and meshes of a machine",
        default=Path("/tmp/gpu-mesh"),
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
    engines: EngineNames = _setting(
        "Engines to use, the preferred one first: `ollama`, `openai` (vLLM, llama.cpp, LM Studio), `local`",
        default=ENGINES,
    )
    engine_urls: EngineUrls = _setting(
        "Address of each device's own engine, as `gpu0=http://127.0.0.1:11434,gpu1=http://127.0.0.1:11435`; a device "
        "not named takes what is found on this machine's usual ports",
        default={},
    )
    engine_key: Secret = _setting(
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
    pause_scope: PauseScope = _setting(
        "How far a running realtime task (`revenue`, `customer`, `ai-realtime`) of this node holds `ai-batch` back: "
        "`gpu`, `node` or `mesh`",
        default=PauseScope.NODE,
    )
    preempt_after_s: float = _setting(
        "How long a task of `internal` or `ai-batch` runs at least before it is asked to yield to a realtime one",
        unit="s",
        default=0.1,
        ge=0,
        le=86_400,
    )
    preempt_limit: int = _setting(
        "How often one task may be preempted; then it runs to its end. 0: never",
        unit="times",
        default=50,
        ge=0,
        le=1_000_000,
    )
    max_deliveries: int = _setting(
        "How often a message that kills its worker is handed out before it goes to the dead letters",
        unit="deliveries",
        default=5,
        ge=1,
        le=1000,
    )

    unavailable_after_s: float = _setting(
        "How long no device may be there that takes `ai-realtime` until its tasks fail and are refused",
        unit="s",
        default=15.0,
        ge=15,
        le=86_400,
    )
    engine_retry_s: float = _setting(
        "When a task of `ai-batch` is tried again whose engine does not answer",
        unit="s",
        default=300.0,
        ge=1,
        le=86_400,
    )
    engine_retries: int = _setting(
        "How often a task of `ai-batch` is tried again whose engine does not answer; then it fails with that error",
        unit="times",
        default=288,
        ge=0,
        le=1_000_000,
    )

    # Applications and tasks
    include: Modules = _setting("Modules with an application's tasks, loaded by every worker", default=())
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
    inference_limit_s: float = _setting(
        "How long an `llm_inference` may take, where its caller sets no limit",
        unit="s",
        default=300.0,
        gt=0,
        le=31_536_000,
    )
    stream_max_mb: float = _setting(
        "Text that the stream of a running task holds at most; who reads too slowly gets the rest with the result",
        unit="MB",
        default=1.0,
        gt=0,
        le=100,
    )
    stream_expires_s: float = _setting(
        "How long a stream is kept after its last piece", unit="s", default=600.0, ge=1, le=LONGEST_EXPIRY_S
    )
    embed_chunk: int = _setting("Texts embedded in one piece; more are split", unit="texts", default=256, ge=1)
    peak_hours: Hours = _setting(
        "Hours in which ai-batch is paused: `09:00-18:00` (each day), `mon-fri 09:00-12:00,13:00-18:00; "
        "sat 22:00-06:00` or `none`. The lead's hold for the whole mesh",
        unit="HH:MM",
        default="09:00-18:00",
    )
    timezone: Zone = _setting("Time zone of the peak hours, `local` for the machine's", default="local")
    usage_share: float = _setting(
        "Share of the devices that do interactive work, above which `internal` waits in peak hours; 1: it never does",
        default=0.5,
        ge=0,
        le=1,
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
