"""NVIDIA GPUs of real workers, as a file that a test rewrites: lost, hot, slowed down, held by strangers, hanging."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nvml_library import GB

FOLDER = Path(__file__).with_name("fake_nvml")

__all__ = ["GB", "Gpus"]


class Gpus:
    """`count` RTX 4090 of 24 GB, `GPU-0` and so on. `env` makes a process see them: `gpu_mesh(..., env=gpus.env)`."""

    def __init__(self, path: Path, count: int = 2) -> None:
        self._path = path
        self._state: dict[str, Any] = {"gpus": [{"uuid": f"GPU-{i}"} for i in range(count)], "names": {}, "hangs": []}
        self._write()

    @property
    def env(self) -> Mapping[str, str]:
        """For a process that is to have these GPUs."""
        path = os.pathsep.join((str(FOLDER), os.environ.get("PYTHONPATH", "")))
        return {"PYTHONPATH": path, "FAKE_NVML": str(self._path)}

    def set(self, index: int, **fields: Any) -> None:
        """Change fields of one GPU (`nvml_library.Gpu`): `temperature=95`, `ecc=2`, `throttle=64`."""
        self._state["gpus"][index].update(fields)
        self._write()

    def reset(self, index: int) -> None:
        """A GPU as it was."""
        self._state["gpus"][index] = {"uuid": f"GPU-{index}"}
        self._write()

    def lose(self, index: int, code: int = 15) -> None:
        """It fails with this error of NVML's at whatever it is asked; 15: it fell off the bus."""
        self.set(index, errors={"nvmlDeviceGetHandleByUUID": code, "nvmlDeviceGetHandleByIndex": code})

    def xid(self, index: int, number: int) -> None:
        """The driver tells of an error."""
        self.set(index, xids=[*self._state["gpus"][index].get("xids", []), number])

    def hang(self, *functions: str) -> None:
        """Calls of these functions do not return, until `hang()` with others or none."""
        self._state["hangs"] = list(functions)
        self._write()

    def hold(self, index: int, pid: int, gb: float, name: str = "blender") -> None:
        """A process holds memory of a GPU, and nobody else does."""
        self._state["names"] = {**self._state["names"], str(pid): name}
        self.set(index, compute=[[pid, int(gb * GB)]], used=int(gb * GB))

    def _write(self) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(self._state))
        fresh.replace(self._path)
