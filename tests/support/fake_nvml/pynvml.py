"""In the place of `pynvml` where this folder is first on PYTHONPATH: the GPUs that a file describes (`gpus.py`).

Constants and errors are the real module's. The file is read at every call, so what a test writes holds at once.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
#: Names the file that describes the GPUs.
STATE = "FAKE_NVML"


def _load_real() -> Any:
    path = [entry for entry in sys.path if Path(entry or ".").resolve() != _HERE]
    spec = importlib.machinery.PathFinder.find_spec("pynvml", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # It looks itself up by its name as it makes its errors.
    mine, sys.modules["pynvml"] = sys.modules["pynvml"], module
    try:
        spec.loader.exec_module(module)
    finally:
        sys.modules["pynvml"] = mine
    return module


globals().update({name: held for name, held in vars(_load_real()).items() if not name.startswith("__")})

from nvml_library import Gpu, NvmlLibrary  # noqa: E402  (it needs the names above)

_library = NvmlLibrary()
#: By UUID how many of its XID errors this process has told.
_told: dict[str, int] = {}


def _look() -> None:
    described = json.loads(Path(os.environ[STATE]).read_text())
    known = {gpu.uuid: gpu for gpu in _library.gpus}
    gpus = []
    for entry in described["gpus"]:
        xids = entry.pop("xids", [])
        gpu = known.get(entry["uuid"]) or Gpu(uuid=entry["uuid"])
        vars(gpu).update({**vars(Gpu()), **entry})
        # NVML tells only what happens while somebody listens.
        told = _told.setdefault(gpu.uuid, len(xids))
        gpu.xids = xids[told:]
        gpus.append(gpu)
    _library.gpus = gpus
    _library.errors = described.get("errors", {})
    _library.names = {int(pid): name for pid, name in described.get("names", {}).items()}


def _called(name: str) -> Any:
    def call(*args: Any) -> Any:
        _look()
        for gpu in args[:1]:
            while isinstance(gpu, Gpu) and name in json.loads(Path(os.environ[STATE]).read_text()).get("hangs", ()):
                time.sleep(0.05)
        answer = getattr(_library, name)(*args)
        if name == "nvmlEventSetWait_v2":
            for gpu in args[0]:
                _told[gpu.uuid] += 1
        return answer

    return call


for _name in [name for name in dir(NvmlLibrary) if name.startswith("nvml")]:
    globals()[_name] = _called(_name)
