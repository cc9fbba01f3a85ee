"""`embeddings` through the devices' engines: parts of one model, wherever they run (SPEC T, P7)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from answers import LIMIT_S
from bare_workers import Mesh, mesh
from ollama_stub import OllamaStub
from waiting import wait_for

from gpu_mesh.engines.vectors import unit
from gpu_mesh.errors import EngineError, ModelNotFound
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
    answer = httpx.post(f"{stub.url}/api/embed", json={"model": MODEL, "input": TEXTS}, trust_env=False)
    return unit(answer.json()["embeddings"]).tolist()


def passed_on(fleet: Mesh) -> int:
    return fleet.all_workers[1].log.read_text().count("goes to gpu0@rich")


def test_parts_run_where_the_model_is(uneven: tuple[Mesh, OllamaStub], tmp_path: Path):
    """P7: all by the model that the splitting device found; parts that the other one takes go back, order kept."""
    fleet, stub = uneven
    gate = tmp_path / "gate"
    held = fleet.hold(gate, node="poor")
    fleet.started(held)
    # The first part takes long enough for the others to go elsewhere.
    stub.load_s = 1.0
    sent = fleet.app.send_task("embeddings", [TEXTS, MODEL])
    wait_for(lambda: stub.requests, "the first part")
    gate.unlink()
    found = sent.get(LIMIT_S)
    assert found["model"] == MODEL
    assert found["vectors"] == [pytest.approx(row, abs=1e-6) for row in expected(stub)]
    assert passed_on(fleet) > 0


def test_a_part_waits_for_the_device_that_has_its_model(uneven: tuple[Mesh, OllamaStub], tmp_path: Path):
    """P7: busy as it is, nobody else could do it."""
    fleet, before = uneven[0], passed_on(uneven[0])
    gate = tmp_path / "gate"
    held = fleet.hold(gate, node="rich")
    fleet.started(held)
    part = fleet.app.send_task("embeddings.part", [TEXTS[:2], MODEL, "whole", 100, "gpu0@rich"])
    wait_for(lambda: passed_on(fleet) > before, "it to be passed on")
    assert not part.ready()
    gate.unlink()
    assert part.get(LIMIT_S)["model"] == MODEL


def test_a_model_that_the_device_has_not(uneven: tuple[Mesh, OllamaStub]):
    """Issue 2: the whole fails with the names there are, large or small; the device of the caller's choice is kept."""
    for count in (1, len(TEXTS)):
        with pytest.raises(ModelNotFound, match="'nomic-embed-text'; it has: wordllama-256"):
            uneven[0].app.send_task("embeddings", [TEXTS[:count], MODEL], node="poor").get(LIMIT_S)


def test_each_device_has_a_model_of_its_own(uneven: tuple[Mesh, OllamaStub]):
    """P7: where the caller names none, that of the device's engine."""
    for node, model in (("rich", MODEL), ("poor", "wordllama-256")):
        found = uneven[0].app.send_task("embeddings", [["a cat"]], node=node).get(LIMIT_S)
        assert (found["model"], found["count"]) == (model, 1)


def test_parts_of_different_models_are_not_joined():
    """P7: two engines may have different models of one name; their vectors cannot be compared."""
    made = [{"model": "m", "dimensions": size, "count": 1, "vectors": ""} for size in (64, 256)]
    with pytest.raises(EngineError, match="m of 64 dimensions, m of 256 dimensions"):
        join_parts(made, "float")
