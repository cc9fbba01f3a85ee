"""An engine that does not answer while its GPU is fine, with real workers (SPEC R4; DESIGN §7)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from answers import LIMIT_S, ask
from bare_workers import Mesh, mesh
from celery import chord, states
from ollama_stub import OllamaStub
from waiting import wait_for

from gpu_mesh.errors import EngineUnavailable, ServiceUnavailable
from gpu_mesh.services import availability
from gpu_mesh.settings import Settings
from gpu_mesh.store import gates, server

#: When ai-batch tries again, s.
RETRY_S = 1.0
#: How often, on the second node.
RETRIES = 2

pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")


@dataclass
class Pair:
    """Two nodes, each with an engine of its own."""

    fleet: Mesh
    engines: dict[str, OllamaStub]

    def closed(self) -> list[str]:
        """The devices that take no realtime work."""
        with self.fleet.server.client() as client:
            return [gate.scope for gate in gates.all_gates(client) if gate.reason == "health"]

    def nobody(self) -> str | None:
        with self.fleet.server.client() as client:
            return availability.nobody(client)

    def ask(self, node: str | None = None, queue: str = "ai-realtime"):
        return ask(self.fleet, options={"queue": queue, "node": node})


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with OllamaStub() as one, OllamaStub() as two, mesh(tmp_path_factory.mktemp("pair")) as fleet:
        engines = {"n1": one, "n2": two}
        for node, stub in engines.items():
            env = {"GPU_MESH_ENGINES": "ollama", "GPU_MESH_ENGINE_URLS": f"gpu0={stub.url}"}
            env |= {"GPU_MESH_ENGINE_RETRY_S": f"{RETRY_S:g}"}
            env |= {"GPU_MESH_ENGINE_RETRIES": str(RETRIES)} if node == "n2" else {}
            fleet.worker(node, **env).start(wait=False)
        for worker in fleet.all_workers:
            worker.await_ready()
        yield Pair(fleet, engines)


@pytest.fixture
def pair(running: Pair) -> Iterator[Pair]:
    """Both engines answer, and nobody doubts it."""
    yield running
    for stub in running.engines.values():
        stub.stop()
        stub.start()
    wait_for(lambda: not running.closed(), "both devices to be open")
    running.fleet.settled()


def test_a_device_without_its_engine_leaves_realtime_work_to_others(pair: Pair):
    """R4: the job that meets it waits, others run elsewhere; when the engine answers it is done here."""
    pair.engines["n1"].stop()
    here = pair.ask("n1")
    wait_for(lambda: pair.closed() == ["gpu0@n1"], "the device to be closed")
    others = [pair.ask() for _ in range(6)]
    assert {sent.get(LIMIT_S)["device"] for sent in others} == {"gpu0@n2"}
    assert here.state == states.RETRY
    assert pair.nobody() is None
    pair.engines["n1"].start()
    assert here.get(LIMIT_S)["device"] == "gpu0@n1"
    assert pair.closed() == []


def test_without_any_engine_realtime_work_fails(pair: Pair):
    """R4: the words of the spec, for what waits and for what is tried twice; back at once with the engine."""
    for stub in pair.engines.values():
        stub.stop()
    with pytest.raises(ServiceUnavailable, match=r"^AI service temporarily unavailable$"):
        pair.ask().get(LIMIT_S)  # met by both
    assert pair.closed() == ["gpu0@n1", "gpu0@n2"]
    sent = [pair.ask("n1"), pair.ask("n2")]
    assert pair.nobody() == "no device's engine answers"
    with pair.fleet.server.client() as client:
        now = server.now(client)
        for late in range(0, 25, 5):
            availability.tick(pair.fleet.app, client, Settings(broker_url=pair.fleet.server.url), now + late)
    for one in sent:
        with pytest.raises(ServiceUnavailable, match=r"^AI service temporarily unavailable$"):
            one.get(LIMIT_S)
    pair.fleet.ended(pair.fleet.send(queue="customer"))
    for stub in pair.engines.values():
        stub.start()
    wait_for(lambda: pair.nobody() is None, "a device that takes it")
    assert pair.ask().get(LIMIT_S)["text"]


def test_batch_is_tried_again(pair: Pair):
    """R4: later, under its id, within its chord, with no delivery counted; then it is done as if nothing had been."""
    pair.engines["n1"].stop()
    app = pair.fleet.app
    parts = [app.signature("llm_inference", args=["Hello there"], queue="ai-batch", node="n1") for _ in range(2)]
    whole = chord(parts, app=app)(app.signature("test", queue="internal"))
    other = pair.ask("n2", queue="ai-batch")
    assert other.get(LIMIT_S)["text"]
    first = whole.parent.results[0]
    wait_for(lambda: first.state == states.RETRY, "the first part to be tried again")
    assert "does not answer" in str(first.info)
    log = Path(pair.fleet.all_workers[0].log)
    # Every part, twice: nothing is lost on the way.
    wait_for(lambda: log.read_text().count("again in 1 s") >= 4, "a second try")
    assert pair.closed() == []
    pair.engines["n1"].start()
    texts = [answer["text"] for answer in whole.get(LIMIT_S)["echo"]]
    assert len(texts) == 2
    assert all(texts)
    assert pair.fleet.dead() == []


def test_batch_is_not_tried_for_ever(pair: Pair):
    """R4: a job that its engine dies of fails with the engine's error, after as many tries as the setting says."""
    pair.engines["n2"].stop()
    log = Path(pair.fleet.all_workers[1].log)
    with pytest.raises(EngineUnavailable, match="does not answer"):
        pair.ask("n2", queue="ai-batch").get(LIMIT_S)
    assert log.read_text().count("again in 1 s") == RETRIES
    pair.engines["n2"].start()
    assert pair.ask("n2", queue="ai-batch").get(LIMIT_S)["text"]
