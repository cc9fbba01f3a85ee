"""`llm_inference` on a real worker with an Ollama stub: answers, limits, failures, the CLI, an example (SPEC T, R1)."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from answers import LIMIT_S, Reading, answering, ask, example_env, said
from bare_workers import Mesh
from celery import states
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError
from ollama_stub import OllamaStub
from processes import run
from waiting import wait_for

from gpu_mesh.errors import (
    EngineError,
    EngineOutOfMemory,
    EngineUnavailable,
    InferenceTimedOut,
    InvalidTask,
    ModelNotFound,
    StreamIncomplete,
)
from gpu_mesh.store import footprints, keys

#: The worker's own limit, s.
SHORT_S = 1.5


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mesh, OllamaStub]]:
    with answering(tmp_path_factory.mktemp("n1"), "n1", GPU_MESH_INFERENCE_LIMIT_S=f"{SHORT_S:g}") as found:
        # A process's first answer loads the client's package.
        ask(found[0], options={"soft_time_limit": LIMIT_S}).get(LIMIT_S)
        yield found


@pytest.fixture
def stub(pair: tuple[Mesh, OllamaStub]) -> Iterator[OllamaStub]:
    """Quick, sound and unused at the beginning."""
    found = pair[1]
    found.requests.clear()
    found.stopped = 0
    yield found
    found.token_s, found.reply_tokens = 0.0, None


@pytest.fixture
def fleet(pair: tuple[Mesh, OllamaStub], stub: OllamaStub) -> Mesh:
    pair[0].settled()
    return pair[0]


def idle(stub: OllamaStub) -> bool:
    return stub.running == 0 and stub.stopped == 1


def test_an_answer(fleet: Mesh, stub: OllamaStub):
    """T: text and figures, with the options as Ollama knows them; always streamed from the engine."""
    sent = ask(fleet, "Hello there", model="gemma4:e4b", system="Be kind.", options={"task_id": "an-answer"})
    found = sent.get(LIMIT_S)
    assert 0 < found.pop("first_token_s") <= found.pop("seconds") < LIMIT_S
    assert found == {
        "text": "You said: Hello there",
        "reason": "stop",
        "model": "gemma4:e4b",
        "engine": "ollama",
        "device": "gpu0@n1",
        "prompt_tokens": 2,
        "output_tokens": 4,
    }
    [body] = [body for path, body in stub.requests if path == "/api/generate"]
    assert (body["system"], body["stream"]) == ("Be kind.", True)


def test_options_and_the_model_of_the_requirements(fleet: Mesh):
    """P1: as an option of the send, as any task's."""
    sent = fleet.app.send_task(
        "llm_inference", ["one two three"], {"options": {"num_predict": 3, "think": True}}, model="gemma4:e4b"
    )
    found = sent.get(LIMIT_S)
    assert (found["text"], found["reason"], found["output_tokens"]) == ("You said: one", "length", 3)
    assert found["thinking"] == "Let me see."
    assert found["model"] == "gemma4:e4b"


def test_messages_and_the_model_that_is_loaded(fleet: Mesh, stub: OllamaStub):
    """P7: where nobody names a model, one that is loaded already."""
    stub.loaded.clear()
    ask(fleet, "load it", model="gemma4:12b").get(LIMIT_S)
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "And now?"}]
    found = ask(fleet, None, messages=turns).get(LIMIT_S)
    assert (found["text"], found["model"]) == ("You said: And now?", "gemma4:12b")
    path, body = stub.requests[-1]
    assert (path, body["messages"]) == ("/api/chat", turns)


def test_pieces_come_as_they_are_said(fleet: Mesh, stub: OllamaStub):
    """Issue 4 §2: the first ones long before the end, together the result; thinking apart."""
    stub.token_s, stub.reply_tokens = 0.05, 14
    thinks = {"model": "gemma4:e4b", "options": {"think": True}}
    reading = Reading(fleet, fleet.app.send_task("llm_inference", ["Hello"], thinks))
    reading.words(3)
    assert reading.sent.state == states.STARTED
    assert reading.end() == said("Hello", 14) == reading.sent.get(LIMIT_S)["text"]
    assert len(reading.pieces) > 6
    assert "".join(piece.thinking for piece in reading.pieces) == "Let me see."
    assert reading.restarts == 0


def test_what_runs_is_what_was_asked(fleet: Mesh):
    """Issue 2, Bad input: from a sender that does not check, refused before the engine is asked."""
    with pytest.raises(InvalidTask) as caught:
        fleet.app.send_task("llm_inference", ["a"], {"messages": []}).get(LIMIT_S)
    assert caught.value.field == "messages"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"kind": "drop"}, EngineUnavailable),
        ({"kind": "reset"}, EngineUnavailable),
        ({"kind": "stream_error", "text": "CUDA error"}, EngineError),
        ({"kind": "error", "text": "llama runner process has terminated: out of memory"}, EngineOutOfMemory),
        ({"kind": "stream_malformed"}, EngineError),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_the_engines_failure_is_the_tasks(fleet: Mesh, stub: OllamaStub, fault: dict[str, Any], error: type[Exception]):
    """Issue 4 §1: the engine's own error, for `get` and for a reader; the next job is served."""
    stub.fail(**fault)
    reading = Reading(fleet, ask(fleet, "one two three", model="gemma4:e4b"))
    with pytest.raises(error) as caught:
        reading.end()
    with pytest.raises(error) as stored:
        reading.sent.get(LIMIT_S)
    assert type(caught.value) is type(stored.value) is error
    assert ask(fleet, "again", model="gemma4:e4b").get(LIMIT_S)["text"] == "You said: again"


def test_a_model_that_is_not_there(fleet: Mesh):
    """Issue 4 §1."""
    with pytest.raises(ModelNotFound, match="'gpt'"):
        ask(fleet, model="gpt").get(LIMIT_S)


def test_the_limit_by_default(fleet: Mesh, stub: OllamaStub):
    """R1: in the middle of an answer; its engine stops, and the next job is served."""
    stub.token_s, stub.reply_tokens = 0.05, 10_000
    began = time.monotonic()
    with pytest.raises(InferenceTimedOut, match=f"limit of {SHORT_S:g} s; give it more with soft_time_limit"):
        ask(fleet, model="gemma4:e4b").get(LIMIT_S)
    assert time.monotonic() - began < SHORT_S + 2
    wait_for(lambda: idle(stub), "the engine to stop")
    stub.token_s, stub.reply_tokens = 0.0, None
    assert ask(fleet, model="gemma4:e4b").get(LIMIT_S)["text"]


def test_the_limit_of_a_silent_engine(fleet: Mesh, stub: OllamaStub):
    """R1: one that loads for ever holds no device longer either."""
    stub.fail("hang")
    with pytest.raises(InferenceTimedOut):
        ask(fleet, model="gemma4:e4b").get(LIMIT_S)


def test_the_callers_limit(fleet: Mesh, stub: OllamaStub):
    """R1: Celery's own, and the engine stops; a reader is told."""
    stub.token_s, stub.reply_tokens = 0.05, 10_000
    reading = Reading(fleet, ask(fleet, model="gemma4:e4b", options={"soft_time_limit": 1}))
    reading.words(3)
    with pytest.raises(SoftTimeLimitExceeded):
        reading.end()
    wait_for(lambda: idle(stub), "the engine to stop", 2)


def test_the_callers_limit_may_be_longer(fleet: Mesh, stub: OllamaStub):
    """R1: it wins over the default."""
    stub.token_s, stub.reply_tokens = 0.1, int(SHORT_S / 0.1) + 3
    sent = ask(fleet, model="gemma4:e4b", options={"time_limit": 15})
    assert sent.get(LIMIT_S)["seconds"] > SHORT_S


def test_cancelled_in_the_middle(fleet: Mesh, stub: OllamaStub):
    """Issue 4 §2: the engine's connection is closed within a second, the reader hears of it."""
    stub.token_s, stub.reply_tokens = 0.05, 10_000
    reading = Reading(fleet, ask(fleet, model="gemma4:e4b"))
    reading.words(3)
    fleet.app.control.revoke(reading.sent.id, terminate=True)
    wait_for(lambda: idle(stub), "the engine to stop", 1.0)
    with pytest.raises(TaskRevokedError):
        reading.end()


def test_a_task_that_keeps_no_result_is_read_all_the_same(fleet: Mesh, stub: OllamaStub):
    """`ignore_result`: its stream stays for a late reader."""
    sent = ask(fleet, "Hello", model="gemma4:e4b", options={"ignore_result": True})
    assert Reading(fleet, fleet.app.AsyncResult(sent.id)).end() == "You said: Hello"
    with fleet.server.client() as client:
        assert client.ttl(keys.stream(sent.id)) > 60
    assert Reading(fleet, fleet.app.AsyncResult(sent.id)).end() == "You said: Hello"


# From the command line


def test_killed_at_its_limit_without_a_result(fleet: Mesh, stub: OllamaStub):
    """`ignore_result` and `time_limit`: the reader, whom nothing else would tell, does not wait on."""
    stub.token_s, stub.reply_tokens = 0.1, 1000
    reading = Reading(fleet, ask(fleet, "Hello", model="gemma4:e4b", options={"ignore_result": True, "time_limit": 1}))
    with pytest.raises(StreamIncomplete, match="ended as FAILURE; it keeps no result"):
        reading.end()
    assert reading.text.startswith("You said: Hello")


def cli(fleet: Mesh, *args: str) -> subprocess.CompletedProcess[str]:
    return run(*args, env=fleet.env())


def test_streamed_to_a_terminal(fleet: Mesh):
    """Issue 4 §2: `submit --stream` prints the answer; a failure goes to standard error (exit code 1)."""
    ran = cli(fleet, "submit", "llm_inference", '["Say hello"]', "--kwargs", '{"model": "gemma4:e4b"}', "--stream")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "You said: Say hello\n", "")
    ran = cli(fleet, "submit", "llm_inference", '["Say hello"]', "--model", "gpt", "--stream")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "FAILURE: ModelNotFound: " in ran.stderr


def test_the_chat_example(fleet: Mesh, stub: OllamaStub):
    """STYLE 16, Q7: as its page says; as urgent customer's work."""
    words = [sys.executable, "-m", "chat", "Where is my parcel?"]
    ran = subprocess.run(words, capture_output=True, text=True, env=example_env(fleet), check=False, timeout=60)
    assert ran.returncode == 0, ran.stderr
    answer, figures = ran.stdout.splitlines()
    assert answer == "You said: Where is my parcel?"
    assert figures.startswith("6 tokens by gemma4:")
    with fleet.server.client() as client:
        wait_for(lambda: '"customer"' in (client.lindex(keys.FINISHED, 0) or ""), "it in the journal")
        last = json.loads(client.lindex(keys.FINISHED, 0))
    assert (last["name"], last["queue"], last["priority"]) == ("llm_inference", "customer", 9)


def test_what_the_model_takes_is_noted(fleet: Mesh) -> None:
    """P6: later claims go by it (tests/integration/test_footprint.py)."""
    ask(fleet, model="gemma4:e4b").get(LIMIT_S)
    with fleet.server.client() as client:
        assert footprints.read(client)["A40", "gemma4:e4b"].gb == pytest.approx(4.5)
