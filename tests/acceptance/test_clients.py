"""The clients of the REST API and what docs/sdk.md says, as programs against one mesh (SPEC A6)."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ollama_stub import OllamaStub
from processes import gpu_mesh
from stumbling_proxy import StumblingProxy

from gpu_mesh import Job, Mesh, app
from gpu_mesh.settings import settings
from gpu_mesh.store import journal
from gpu_mesh.store.client import connect
from gpu_mesh.store.embedded import Address

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "examples" / "clients"
DOCS = (ROOT / "docs" / "sdk.md").read_text(encoding="utf-8")
NODE = shutil.which("node")

PROGRAMS = [
    pytest.param([sys.executable, str(CLIENTS / "client.py")], id="python"),
    pytest.param(
        [str(NODE), str(CLIENTS / "client.mjs")],
        id="javascript",
        marks=pytest.mark.skipif(NODE is None, reason="node is not installed here"),
    ),
]


@pytest.fixture(scope="module")
def port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def mesh(empty_redis: Address, port: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A mesh with one device, an Ollama of its own and the API; the API's address."""
    folder = tmp_path_factory.mktemp("clients")
    with OllamaStub() as stub:
        env = {
            "NODE_NAME": "clients",
            "GPU_MESH_STATE_DIR": str(folder),
            "GPU_MESH_BROKER_URL": empty_redis.url,
            "GPU_MESH_ENGINES": "ollama,local",
            "GPU_MESH_ENGINE_URLS": f"gpu0={stub.url}",
            "GPU_MESH_API_ENABLED": "true",
            "GPU_MESH_API_PORT": port,
            "GPU_MESH_DEVICES": "fake:RTX 4090:24",
        }
        with gpu_mesh("up", log=folder / "log", ready="serving http", env=env):
            yield f"http://127.0.0.1:{port}"


def runs(program: list[str], url: str) -> list[str]:
    """Lines of what it prints."""
    env = {"PATH": os.environ["PATH"], "GPU_MESH_URL": url, "GPU_MESH_TOKEN": "a-token"}
    ran = subprocess.run(program, capture_output=True, text=True, env=env, timeout=90, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout.splitlines()


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_client(program: list[str], mesh: str):
    """A6: submit once though the API is busy, wait, stream through a broken connection, cancel, be refused."""
    with StumblingProxy(mesh) as proxy:
        *busy, embedded, broken, said, twice, cancelled, refused = runs(program, proxy.url)
    assert busy == ["the mesh is busy or away: again in 1 s"] * 2
    assert broken.startswith("the mesh is busy or away")
    first, chat, later = (line.split(" ")[0] for line in (embedded, said, twice))
    assert embedded == f"{first} SUCCESS: 2 vectors of {Job(first).result(timeout=0)['dimensions']} dimensions"
    assert said == f"{chat} SUCCESS: {Job(chat).result(timeout=0)['text']}"
    assert twice.casefold() == f"{later} sent twice, there once: true"
    assert cancelled == f"{later} cancelled, it was waiting: REVOKED"
    assert refused == "refused: 422 priority=11"
    # What the mesh itself wrote down: each was done once, the cancelled one by nobody.
    with connect(settings()) as client:
        done = [str(entry["id"]) for entry in journal.finished(client, 100)]
    assert (done.count(first), done.count(chat), done.count(later)) == (1, 1, 0)
    assert Job(later).info().cancelled
    # The busy API was asked for the same thing each time, and by somebody it knows.
    submits = [headers for method, path, headers in proxy.seen if (method, path) == ("POST", "/tasks/submit")]
    assert len({headers["idempotency-key"] for headers in submits[:3]}) == 1
    assert {headers["authorization"] for _, _, headers in proxy.seen} == {"Bearer a-token"}
    streams = [headers.get("last-event-id") for _, path, headers in proxy.seen if path.endswith("/stream")]
    assert streams[0] is None
    assert streams[1]


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", DOCS, re.DOTALL | re.MULTILINE)


def test_the_code_of_the_docs_runs(mesh: str, capsys: pytest.CaptureFixture[str]):
    """Every `python` block of docs/sdk.md, in order, in one namespace; what it defines for a server is called."""
    app.set_default()
    namespace: dict[str, object] = {"__name__": "sdk_docs"}
    for block in blocks():
        exec(compile(block, "docs/sdk.md", "exec"), namespace)
    assert namespace["vectors"]["count"] == 2
    assert len(namespace["jobs"]) == 3
    said = capsys.readouterr().out
    assert "Say hello" in said
    with_fastapi = namespace["TestClient"](namespace["api"])
    answer = with_fastapi.post("/questions", params={"question": "How do I pay?"})
    assert answer.json()["answer"].startswith("You said:")
    lines = with_fastapi.get("/questions/stream", params={"question": "How do I pay?"})
    assert "How do I pay?" in lines.text
    assert asyncio.run(namespace["two"]()) == [2, 2]


def test_the_typed_example(mesh: str):
    """examples/application: a program against the mesh; mypy reads it in the unit tests."""
    # As where its user also runs a client of the REST API.
    rest = {"GPU_MESH_URL": mesh, "GPU_MESH_TOKEN": "a-token"}
    env = {**os.environ, **rest, "PYTHONPATH": str(ROOT / "examples")}
    ran = subprocess.run(
        [sys.executable, "-m", "application"], capture_output=True, text=True, env=env, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "You said:" in ran.stdout
    assert "nearest to" in ran.stdout
    assert re.search(r"clients: 1 device\(s\)", ran.stdout)
    assert {node.name for node in Mesh().nodes()} == {"clients"}
