"""The application's own task. The mesh's workers load it: GPU_MESH_INCLUDE=file_count.tasks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from celery import shared_task

from gpu_mesh import GpuTask


@shared_task(bind=True, gpu_count=0)
def count_words(self: GpuTask, folder: str, pace_s: float = 0.0) -> dict[str, Any]:
    """Words in the files of a folder. `pace_s` is how long a file takes at least, s.

    `began_at` tells with which file each run of the task began: one number where nothing went wrong.
    """
    files = sorted(path for path in Path(folder).iterdir() if path.is_file())
    state = self.restored or {"done": 0, "words": 0, "began_at": []}
    state["began_at"].append(state["done"])
    for file in files[state["done"] :]:
        state["words"] += len(file.read_text(errors="replace").split())
        state["done"] += 1
        time.sleep(pace_s)
        self.checkpoint(state)
    return {"files": state["done"], "words": state["words"], "began_at": state["began_at"]}
