"""The API, in this process or as a process of its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi.testclient import TestClient
from processes import gpu_mesh


@contextmanager
def served(**changes: Any) -> Iterator[TestClient]:
    """The API of this process, asked without a socket; an error of its own is an answer, not an exception. `changes`:
    settings that are others than this process's."""
    from gpu_mesh.api.application import create
    from gpu_mesh.settings import settings

    told = settings().model_copy(update=changes)
    with TestClient(create(told), raise_server_exceptions=False, base_url="http://127.0.0.1:8001") as client:
        yield client


@contextmanager
def api(folder: Path, env: Mapping[str, str] | None = None, *args: str) -> Iterator[httpx.Client]:
    """`gpu-mesh api` on a free port of loopback, with an HTTP client for it; its output is in `folder`/api.log."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    told = {**os.environ, **(env or {}), "GPU_MESH_API_PORT": port}
    with (
        gpu_mesh("api", *args, log=folder / "api.log", ready="serving http", env=told),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):
        yield client
