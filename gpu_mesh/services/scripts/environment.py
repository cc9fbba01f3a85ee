"""What a script finds in its environment: plain names, its devices, its hints. No secret of the worker's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gpu_mesh.devices.detection import VISIBLE
from gpu_mesh.domain.device import Device

__all__ = ["HINTS", "PASSED", "TASK_ID", "environment"]

#: The task a script works for.
TASK_ID = "GPU_MESH_TASK_ID"
#: What else it is told; docs/scripts.md explains each.
HINTS = (
    "MESH_ARGS_FILE",
    "MESH_CHECKPOINT_DIR",
    "MESH_DEVICE",
    "MESH_GPU_TYPE",
    "MESH_MEMORY_GB",
    "MESH_NODE",
    "MESH_SCRIPT",
    "MESH_STOP_GRACE_S",
    "MESH_TIME_LIMIT_S",
)
#: Names passed on from the worker's environment where they are set: none of them usually holds a secret.
PASSED = frozenset(
    {
        "CUDA_DEVICE_ORDER",
        "CUDA_HOME",
        "CUDA_PATH",
        "HF_HOME",
        "HOME",
        "LANG",
        "LANGUAGE",
        "LD_LIBRARY_PATH",
        "LOGNAME",
        "NVIDIA_DRIVER_CAPABILITIES",
        "NVIDIA_VISIBLE_DEVICES",
        "OMP_NUM_THREADS",
        "PATH",
        "SHELL",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
        "TMPDIR",
        "TORCH_HOME",
        "TZ",
        "USER",
        "VIRTUAL_ENV",
        "XDG_CACHE_HOME",
    }
)
#: Names that begin so are passed on too.
_PASSED_PREFIX = "LC_"
#: Progress must not lie in a buffer.
_OWN = {"PYTHONUNBUFFERED": "1"}


def environment(
    source: Mapping[str, str], *, also: Iterable[str], devices: Sequence[Device], hints: Mapping[str, str | None]
) -> dict[str, str]:
    """The script's environment, of the worker's (`source`).

    `also`: further names to pass on, the operator's choice. `devices`: those of the run; CUDA sees no other one.
    `hints` that are None are left out.
    """
    names = PASSED | frozenset(also)
    passed = {name: value for name, value in source.items() if name in names or name.startswith(_PASSED_PREFIX)}
    visible = ",".join(device.uuid for device in devices if device.uuid)
    told = {name: value for name, value in hints.items() if value is not None}
    return {**passed, **_OWN, VISIBLE: visible, **told}
