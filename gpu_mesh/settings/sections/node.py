"""The broker, and what this node is and offers."""

import os
import re
import socket
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from gpu_mesh.errors import InvalidSetting
from gpu_mesh.settings.sections.base import env_name, setting
from gpu_mesh.settings.types import (
    Broker,
    CpuQueues,
    DeviceList,
    Figures,
    File,
    Folder,
    HttpUrl,
    Labels,
    NodeName,
    OwnAddress,
)

__all__ = ["NodeSettings"]


def _default_node_name() -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", socket.gethostname()).strip(".-")[:63] or "node"


def _default_state_dir() -> Path:
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "gpu-mesh"
    except RuntimeError:  # neither HOME nor an entry in passwd
        raise InvalidSetting(
            env_name("state_dir"), "", "this user has no home folder: name a folder, as in /var/lib/gpu-mesh"
        ) from None


class NodeSettings(BaseModel, defer_build=True):
    """The broker, and what this node is and offers."""

    # The broker
    broker_url: Broker = setting(
        "Address of Redis; several for failover are separated by `;`. Unset: the embedded Redis of `gpu-mesh up`",
        default=None,
    )
    result_url: Broker = setting("Where results are kept. Unset: in the broker", default=None)
    tls_ca_file: File = setting("Authority that signed Redis's certificate, for rediss://", default=None)
    tls_cert_file: File = setting("Our own certificate, where Redis asks for one", default=None)
    tls_key_file: File = setting("Key of our own certificate", default=None)
    sentinel_master: str = setting("Name of the master that sentinel:// asks for", default="mymaster")
    listen: OwnAddress = setting("Address the embedded Redis listens on besides loopback", default="127.0.0.1")
    state_dir: Folder = setting(
        "Folder for the embedded Redis, its password, the log and checkpoints of scripts",
        default_factory=_default_state_dir,
    )

    # This node
    node_name: NodeName = setting(
        "Name of this machine, unique in the mesh",
        names=("GPU_MESH_NODE_NAME", "NODE_NAME"),
        default_factory=_default_node_name,
    )
    node_role: Literal["lead", "compute"] = setting(
        "`lead` also runs the control worker and beat; `compute` only devices",
        names=("GPU_MESH_NODE_ROLE", "NODE_ROLE"),
        default="compute",
    )
    gpu_enabled: bool = setting(
        "Whether this machine offers its GPUs; without, its CPU",
        names=("GPU_MESH_GPU_ENABLED", "GPU_ENABLED"),
        default=True,
    )
    coordinator_url: HttpUrl = setting(
        "Address of the lead's REST API, for nodes that cannot reach Redis",
        names=("GPU_MESH_COORDINATOR_URL", "MESH_COORDINATOR_URL"),
        default=None,
    )
    devices: DeviceList = setting(
        "Devices of this node: `auto`, or a list of `nvidia`, `apple`, `cpu`, `cpu:COUNT`, `fake:TYPE:GB`, "
        "`endpoint:TYPE:GB:URL`",
        default="auto",
    )
    labels: Labels = setting("Labels of this node's devices, as `trust=owned,site=office`", default={})
    models: Labels = setting(
        "Models that a device is kept for, as `gpu0=gemma4:e4b,gpu1=gemma4:12b|gemma4:27b`; one not named runs any",
        default={},
    )
    memory_margin_gb: float = setting(
        "Device memory kept free of jobs", unit="GB", default=1.0, ge=0, le=1000, allow_inf_nan=False
    )
    gpu_powers: Figures = setting(
        "Power by GPU type where the built-in table is wrong, as `RTX 4090=100`", unit="RTX 4090 = 100", default={}
    )
    gpu_costs: Figures = setting(
        "Cost by GPU type where the built-in table is wrong, as `A40=0.4`", unit="currency/h", default={}
    )
    lock_dir: Folder = setting(
        "Folder of the locks that keep a device to one job at a time; the same for all users and meshes of a machine",
        default=Path("/tmp/gpu-mesh"),
    )
    cpu_counts: Literal["auto", "yes", "no"] = setting(
        "Whether a CPU may run what needs a GPU; `auto`: only while the mesh has no GPU", default="auto"
    )
    cpu_queues: CpuQueues = setting(
        "Queues that need no GPU; `none` for no such queue", default=("rfa-reminders", "rfa-distribution")
    )
    cpu_concurrency: int = setting("Tasks of the CPU queues run at once on this node", default=2, ge=1, le=256)
    node_refresh_s: float = setting("How often a node renews its registration", unit="s", default=5.0, gt=0, le=3600)
    node_ttl_s: float = setting("Silence after which a node counts as offline", unit="s", default=20.0, gt=0, le=86400)
    stop_timeout_s: float = setting(
        "How long a stopping worker's job may go on; then it is ended and handed back",
        unit="s",
        default=60.0,
        ge=0,
        le=86400,
    )
