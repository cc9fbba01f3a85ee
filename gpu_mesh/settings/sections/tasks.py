"""Applications, their tasks, scripts and hours."""

from typing import Literal

from pydantic import BaseModel

from gpu_mesh.settings.sections.base import LONGEST_EXPIRY_S, setting
from gpu_mesh.settings.types import File, Hours, Modules, Names, Zone

__all__ = ["TaskSettings"]


class TaskSettings(BaseModel, defer_build=True):
    """Applications, their tasks, scripts and hours."""

    # Applications and tasks
    include: Modules = setting("Modules with an application's tasks, loaded by every worker", default=())
    submit_timeout_s: float = setting(
        "How long a submit waits for a broker that does not answer", unit="s", default=5.0, gt=0, le=300
    )
    max_payload_mb: float = setting("Largest arguments of one task", unit="MB", default=10.0, gt=0, le=400)
    result_expires_s: float = setting(
        "How long results are kept", unit="s", default=86_400.0, gt=0, le=LONGEST_EXPIRY_S
    )
    checkpoint_max_mb: float = setting(
        "Largest state that a task may save as its checkpoint, as JSON", unit="MB", default=1.0, gt=0, le=100
    )
    checkpoint_expires_s: float = setting(
        "How long the checkpoint of a task that does not end is kept",
        unit="s",
        default=604_800.0,
        ge=1,
        le=LONGEST_EXPIRY_S,
    )
    # Scripts
    scripts_dir: File = setting(
        "Folder of the scripts that `custom` and `training` run by name. Unset: this node runs none", default=None
    )
    script_env: Names = setting(
        "Names passed on to scripts from the worker's environment, beside the harmless ones", default=()
    )
    script_grace_s: float = setting(
        "How long a script that is asked to stop may take to save; then it is killed",
        unit="s",
        default=30.0,
        ge=0,
        le=3600,
    )
    script_result_max_mb: float = setting("Largest result of a script", unit="MB", default=1.0, gt=0, le=100)
    custom_limit_s: float = setting(
        "How long a `custom` script may run, where its caller sets no limit",
        unit="s",
        default=600.0,
        gt=0,
        le=31_536_000,
    )
    training_limit_s: float = setting(
        "How long one run of a `training` script may take, where its caller sets no limit",
        unit="s",
        default=86_400.0,
        gt=0,
        le=31_536_000,
    )
    checkpoint_dir: File = setting(
        "Folder of the files that `training` scripts keep for their next run; shared by the nodes, another one can go "
        "on. Unset: in the state folder",
        default=None,
    )
    inference_limit_s: float = setting(
        "How long an `llm_inference` may take, where its caller sets no limit",
        unit="s",
        default=300.0,
        gt=0,
        le=31_536_000,
    )
    stream_max_mb: float = setting(
        "Text that the stream of a running task holds at most; who reads too slowly gets the rest with the result",
        unit="MB",
        default=1.0,
        gt=0,
        le=100,
    )
    stream_expires_s: float = setting(
        "How long a stream is kept after its last piece", unit="s", default=600.0, ge=1, le=LONGEST_EXPIRY_S
    )
    embed_chunk: int = setting("Texts embedded in one piece; more are split", unit="texts", default=256, ge=1)
    peak_hours: Hours = setting(
        "Hours in which ai-batch is paused: `09:00-18:00` (each day), `mon-fri 09:00-12:00,13:00-18:00; "
        "sat 22:00-06:00` or `none`. The lead's hold for the whole mesh",
        unit="HH:MM",
        default="09:00-18:00",
    )
    timezone: Zone = setting("Time zone of the peak hours, `local` for the machine's", default="local")
    usage_share: float = setting(
        "Share of the devices that do interactive work, above which `internal` waits in peak hours; 1: it never does",
        default=0.5,
        ge=0,
        le=1,
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = setting("How much is logged", default="INFO")
    worker_device: str | None = setting(
        "Set by `gpu-mesh worker` for the workers it starts: the device each serves, as JSON", default=None
    )
