"""An answer whose run is killed, stopped or frozen, or whose Redis dies: read whole by one reader (issue 4 §2, F1)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from answers import LIMIT_S, Reading, answering, ask, said
from bare_workers import BareWorker, Mesh
from ollama_stub import OllamaStub
from waiting import wait_for

LEASE_S = 2.0
#: Of an answer, and how long each takes, s.
TOKENS, TOKEN_S = 30, 0.05
PROMPT = "What is a mesh"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mesh, OllamaStub]]:
    with answering(tmp_path_factory.mktemp("two"), "n1", "n2", GPU_MESH_LEASE_TTL_S=f"{LEASE_S:g}") as found:
        found[1].token_s, found[1].reply_tokens = TOKEN_S, TOKENS
        yield found


@pytest.fixture
def stub(pair: tuple[Mesh, OllamaStub]) -> OllamaStub:
    pair[1].stopped = 0
    pair[1].requests.clear()
    return pair[1]


@pytest.fixture
def fleet(pair: tuple[Mesh, OllamaStub], stub: OllamaStub) -> Mesh:
    """Both workers up, and nothing in it."""
    fleet = pair[0]
    for worker in [worker for worker in fleet.all_workers if not worker.alive()]:
        worker.start()
    fleet.settled()
    return fleet


@pytest.fixture
def reading(fleet: Mesh) -> Reading:
    """A reader in the middle of an answer."""
    reading = Reading(fleet, ask(fleet, PROMPT, model="gemma4:e4b"))
    reading.words(5)
    return reading


def worker_of(fleet: Mesh, reading: Reading) -> BareWorker:
    name = reading.sent.info["hostname"]
    return next(worker for worker in fleet.all_workers if worker.name == name)


def check_whole(reading: Reading) -> None:
    """The reader was told once that the text begins anew, and has all of it."""
    assert reading.end() == said(PROMPT, TOKENS) == reading.sent.get(LIMIT_S)["text"]
    assert reading.restarts == 1


def test_the_child_is_killed(fleet: Mesh, stub: OllamaStub, reading: Reading):
    """DESIGN §9: another run, from the beginning; the engine stops the first."""
    os.kill(reading.sent.info["pid"], signal.SIGKILL)
    reading.until(lambda piece: piece.restart)
    wait_for(lambda: stub.stopped == 1, "the engine to stop")
    check_whole(reading)


def test_a_warm_stop(fleet: Mesh, stub: OllamaStub, reading: Reading):
    """DESIGN §6: the run yields at its next token; the other worker answers, no delivery counted."""
    worker = worker_of(fleet, reading)
    worker.send(signal.SIGTERM)
    check_whole(reading)
    wait_for(lambda: not worker.alive(), "the worker's end")
    assert "yields: the worker stops" in worker.log.read_text()
    assert stub.stopped == 1


def test_a_frozen_worker(fleet: Mesh, stub: OllamaStub, reading: Reading):
    """DESIGN §6, fencing: its run, back after another one began, adds nothing to that one's text."""
    worker = worker_of(fleet, reading)
    losses = worker.log.read_text().count("lease lost")
    worker.freeze()
    try:
        reading.until(lambda piece: piece.restart)
        reading.words(3)
    finally:
        worker.thaw()
    check_whole(reading)
    wait_for(lambda: worker.log.read_text().count("lease lost") > losses, "the frozen worker's return")


def test_redis_dies_in_the_middle(fleet: Mesh, stub: OllamaStub, reading: Reading):
    """Issue 4 §2, DESIGN §9: the answer goes on, is asked for once, and read whole without a restart."""
    fleet.server.kill()
    fleet.server.start()
    assert reading.end() == said(PROMPT, TOKENS) == reading.sent.get(LIMIT_S)["text"]
    assert reading.restarts == 0
    assert [path for path, _ in stub.requests] == ["/api/generate"]


def test_redis_away_for_the_whole_rest(fleet: Mesh, stub: OllamaStub, reading: Reading):
    """Issue 4 §2: nothing of the answer is lost; its result waits for Redis, and so does the reader."""
    worker = worker_of(fleet, reading)
    fleet.server.kill()
    wait_for(lambda: stub.running == 0, "the end of the answer")
    fleet.server.start()
    assert reading.end() == said(PROMPT, TOKENS)
    assert stub.stopped == 0
    assert worker.log.read_text().count(f"{reading.sent.id} streams later") == 1
