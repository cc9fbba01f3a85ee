"""`embeddings` through the devices' engines: parts of one model, wherever they run (SPEC T, P7)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from answers import LIMIT_S, example_env
from bare_workers import Mesh, mesh
from ollama_stub import OllamaStub

from gpu_mesh.engines.vectors import unit
from gpu_mesh.errors import EngineError, ModelNotFound
from gpu_mesh.services import lookup
from gpu_mesh.settings import Settings
from gpu_mesh.tasks.embeddings import join_parts

#: Only the Ollama of the node `rich` has it.
MODEL = "nomic-embed-text"
TEXTS = [f"text {number}" for number in range(24)]


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mesh, OllamaStub]]:
    """Two nodes: `rich` has an Ollama, `poor` its own process alone."""
    with OllamaStub() as stub, mesh(tmp_path_factory.mktemp("uneven")) as found:
        chunk = {"GPU_MESH_EMBED_CHUNK": "2"}
        ollama = {"GPU_MESH_ENGINES": "ollama,local", "GPU_MESH_ENGINE_URLS": f"gpu0={stub.url}"}
        workers = [found.worker("rich", **chunk, **ollama), found.worker("poor", **chunk)]
        for worker in workers:
            worker.start(wait=False)
        for worker in workers:
            worker.await_ready()
        yield found, stub


def expected(stub: OllamaStub) -> list[list[float]]:
    import httpx

    answer = httpx.post(f"{stub.url}/api/embed", json={"model": MODEL, "input": TEXTS}, trust_env=False)
    return unit(answer.json()["embeddings"]).tolist()


def parts(fleet: Mesh) -> set[str]:
    """Workers that parts ended on."""
    settings = Settings(broker_url=fleet.server.url, _env_file=None)
    return {str(one.worker) for one in lookup.finished_tasks(settings, 200) if one.name == "embeddings.part"}


def test_parts_run_where_the_model_is(uneven: tuple[Mesh, OllamaStub]):
    """P7: split on the device that has the model; a part that meets the other one goes back, in the order of the whole."""
    fleet, stub = uneven
    sent = fleet.app.send_task("embeddings", [TEXTS, MODEL], node="rich")
    # Parts inherit the whole's needs; these may run anywhere.
    found = sent.get(LIMIT_S)
    assert found["model"] == MODEL
    assert found["vectors"] == [pytest.approx(row, abs=1e-6) for row in expected(stub)]
