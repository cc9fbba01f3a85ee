"""The process that reads one NVIDIA GPU, run as a script by `gpu_mesh.devices.reader`.

Its arguments are the device and the driver's errors (XID) that earlier ones heard, as JSON. It says `ready`, then
answers each line of its standard input with a reading, or with `{"error", "hard"}`; where there is a new error of the
driver, with all of them before that, in a line that ends with a space: a reading may hang. It lives between two
readings: so they cost next to nothing, and it hears of errors of the driver that nobody can ask for later.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

__all__ = ["serve"]


def _bare_package() -> None:
    """Have `gpu_mesh` be a folder and no more: its own start would bring Celery along, half a second and 40 MB."""
    package = types.ModuleType("gpu_mesh")
    package.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["gpu_mesh"] = package


def serve() -> None:
    """Answer until standard input ends."""
    from gpu_mesh.devices.nvml import NvmlSource
    from gpu_mesh.devices.nvml_health import Xids, with_xids
    from gpu_mesh.domain.device import Device
    from gpu_mesh.errors import DeviceError

    device = Device.from_dict(json.loads(sys.argv[1]))
    source, xids = NvmlSource(), Xids(device.uuid, heard=json.loads(sys.argv[2]))
    told = xids.heard()
    _say("ready")
    for _ in sys.stdin:
        xids.listen()
        if (known := xids.heard()) != told:
            told = known
            _say(told or (), end=" \n")
        try:
            _say(with_xids(source.read(device), xids.heard()).to_dict())
        except DeviceError as exc:
            heard = "".join(f"; the driver told of XID {xid}" for xid in dict.fromkeys(xids.heard() or ()))
            _say({"error": f"{exc}{heard}", "hard": exc.hard})


def _say(what: Any, end: str = "\n") -> None:
    sys.stdout.write(json.dumps(what) + end)
    sys.stdout.flush()


if __name__ == "__main__":
    _bare_package()
    serve()
