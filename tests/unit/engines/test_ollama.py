"""Ollama: what is loaded and where, for how long, fetching, and that the official client takes all the stub says."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import pytest
from fastapi import Response
from ollama_stub import GB, OllamaStub, StubModel
from stub_server import stub_process
from waiting import wait_for

from gpu_mesh.engines.base import Ability, Kind
from gpu_mesh.engines.connection import Connection
from gpu_mesh.engines.naming import canonical, kinds_by_name
from gpu_mesh.engines.ollama import OllamaEngine
from gpu_mesh.engines.options import GenerateOptions
from gpu_mesh.errors import EngineOutOfMemory, EngineUnavailable, InvalidTask, ModelNotFound


@pytest.fixture
def stub() -> Iterator[OllamaStub]:
    with OllamaStub() as stub:
        yield stub


@pytest.fixture
def engine(stub: OllamaStub) -> Iterator[OllamaEngine]:
    engine = OllamaEngine(stub.url, timeout_s=10)
    yield engine
    engine.close()


def in_memory(engine: OllamaEngine) -> list[str]:
    return sorted(model.name for model in engine.loaded())


def test_the_example_of_the_order_fits(engine: OllamaEngine, stub: OllamaStub) -> None:
    """SPEC P6: gemma4:e4b and nomic-embed-text beside each other in 8 GB, and 3 GB left."""
    engine.embed(["x"])
    list(engine.generate("x", "gemma4:e4b"))
    assert in_memory(engine) == ["gemma4:e4b", "nomic-embed-text"]
    assert stub.used_gb == 5.0
    assert {model.name: (model.size_gb, model.vram_gb) for model in engine.loaded()} == {
        "gemma4:e4b": (4.5, 4.5),
        "nomic-embed-text": (0.5, 0.5),
    }


def test_unload_frees_the_memory(engine: OllamaEngine, stub: OllamaStub) -> None:
    """SPEC P7: one model by name, or all of them; the embedder too, which cannot generate."""
    engine.load("gemma4:e4b")
    engine.load("nomic-embed-text")
    engine.unload("nomic-embed-text:latest")
    assert in_memory(engine) == ["gemma4:e4b"]
    engine.load("nomic-embed-text")
    engine.unload()
    assert (in_memory(engine), stub.used_gb) == ([], 0.0)


def test_the_silent_fallback_to_the_cpu_is_seen(engine: OllamaEngine, stub: OllamaStub) -> None:
    """DESIGN §8: size_vram less than size."""
    stub.others_gb, stub.ram_gb = 5.0, 64.0
    engine.load("gemma4:12b")
    [model] = engine.check().on_cpu
    assert (model.name, model.size_gb, model.vram_gb) == ("gemma4:12b", 6.0, 3.0)
    assert model.cpu_share == 0.5


def test_too_large_a_model_is_out_of_memory(engine: OllamaEngine, stub: OllamaStub) -> None:
    """Issue 4: by load, generate and embed alike; nothing is left behind."""
    stub.others_gb = 7.9
    for work in (
        lambda: engine.load("gemma4:12b"),
        lambda: list(engine.generate("x", "gemma4:12b")),
        lambda: engine.embed(["x"], "nomic-embed-text"),
    ):
        with pytest.raises(EngineOutOfMemory, match=r"too little memory for the model .* smaller"):
            work()
    assert in_memory(engine) == []


def test_keep_alive(engine: OllamaEngine, stub: OllamaStub) -> None:
    """By request, by engine, by Ollama's own 5 minutes; below 0 for ever; a use without one changes nothing."""
    engine.load("gemma4:e4b")
    engine.load("nomic-embed-text", keep_alive_s=-1)
    stub.pass_time(299)
    assert len(in_memory(engine)) == 2
    stub.pass_time(2)
    assert in_memory(engine) == ["nomic-embed-text"]
    engine.embed(["x"])
    stub.pass_time(1e6)
    assert in_memory(engine) == ["nomic-embed-text"]
    list(engine.generate("x", options=GenerateOptions(keep_alive_s=60)))
    stub.pass_time(61)
    assert in_memory(engine) == ["nomic-embed-text"]
    brief = OllamaEngine(stub.url, keep_alive_s=10)
    brief.embed(["x"])
    stub.pass_time(11)
    assert in_memory(engine) == []
    brief.close()


def test_options_go_over_under_their_names(engine: OllamaEngine, stub: OllamaStub) -> None:
    chosen = GenerateOptions(
        max_tokens=5, temperature=0.5, top_p=0.9, top_k=40, seed=7, stop=("x",), context_tokens=2048, think=True
    )
    list(engine.generate("hello", "gemma4:e4b", system="Be brief.", options=chosen))
    path, body = stub.requests[-1]
    assert path == "/api/generate"
    assert body["options"] == {
        "num_predict": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "seed": 7,
        "stop": ["x"],
        "num_ctx": 2048,
    }
    assert (body["system"], body["think"], body["stream"], body["raw"]) == ("Be brief.", True, True, False)
    assert "keep_alive" not in body
    list(engine.generate("hello", options=GenerateOptions(raw=True)))
    assert stub.requests[-1][1]["raw"] is True


def test_thinking_is_apart_from_the_answer(engine: OllamaEngine) -> None:
    first, *rest = engine.chat([{"role": "user", "content": "hi"}], options=GenerateOptions(think=True))
    assert (first.thinking, first.text) == ("Let me see.", "")
    assert "".join(chunk.text for chunk in rest) == "You said: hi"
    with pytest.raises(InvalidTask, match="thinking"):
        list(engine.generate("hi", "gemma4:12b", options=GenerateOptions(think=True)))


def test_without_a_name_a_loaded_model_is_taken(engine: OllamaEngine, stub: OllamaStub) -> None:
    """No model is swapped for another without need (SPEC P2: model already loaded)."""
    list(engine.generate("x"))
    assert stub.requests[-1][1]["model"] == "gemma4:e4b"
    engine.load("gemma4:12b")
    engine.unload("gemma4:e4b")
    list(engine.generate("x"))
    assert stub.requests[-1][1]["model"] == "gemma4:12b"


def test_without_a_name_the_first_that_embeds_is_taken(stub: OllamaStub) -> None:
    """Loaded or not: vectors of two models cannot be compared."""
    stub.models["bge-m3:latest"] = StubModel("bge-m3:latest", 1.0, ("embedding",), "bert")
    engine = OllamaEngine(stub.url)
    first, other = (model.name for model in engine.models()[:2])
    engine.load(other)
    assert engine.embed(["x"]).model == first
    engine.close()


def test_the_settings_models_come_first(stub: OllamaStub) -> None:
    stub.models["bge-m3:latest"] = StubModel("bge-m3:latest", 1.0, ("embedding",), "bert")
    engine = OllamaEngine(stub.url, embed_model="bge-m3:latest", chat_model="gemma4:12b")
    assert engine.embed(["x"]).model == "bge-m3" == engine.models()[0].name
    list(engine.generate("x"))
    assert stub.requests[-1][1]["model"] == "gemma4:12b"
    engine.close()


def test_without_a_model_that_can_one_is_asked_for(stub: OllamaStub) -> None:
    del stub.models["nomic-embed-text:latest"]
    engine = OllamaEngine(stub.url)
    with pytest.raises(ModelNotFound, match="None of them can embed: `ollama pull` one"):
        engine.embed(["x"])
    with pytest.raises(InvalidTask, match="name a model that can"):
        engine.embed(["x"], "gemma4:e4b")
    stub.models.clear()
    assert engine.models() == ()
    with pytest.raises(ModelNotFound, match="it has: none"):
        list(engine.generate("x"))
    engine.close()


def test_a_missing_model_is_fetched_only_if_allowed(engine: OllamaEngine, stub: OllamaStub) -> None:
    """Issue 4: pull only if allowed."""
    with pytest.raises(ModelNotFound, match="`ollama pull all-minilm` on its machine"):
        engine.embed(["x"], "all-minilm")
    assert not any(path == "/api/pull" for path, _ in stub.requests)
    allowed = OllamaEngine(stub.url, allow_pull=True)
    assert Ability.PULL in allowed.abilities
    assert allowed.embed(["x"], "all-minilm").model == "all-minilm"
    with pytest.raises(ModelNotFound, match="library has no model 'no-such'"):
        list(allowed.generate("x", "no-such"))
    allowed.close()


def test_a_pull_tells_how_far_it_is_and_can_be_stopped(stub: OllamaStub) -> None:
    engine = OllamaEngine(stub.url, allow_pull=True)
    parts = list(engine.pull("all-minilm"))
    assert parts[-1].status == "success"
    total = int(0.1 * GB)
    assert [part.done_bytes for part in parts if part.total_bytes == total] == [total * i // 4 for i in range(5)]
    stub.pull_s, before = 0.05, stub.stopped
    pulls = engine.pull("all-minilm")
    next(pulls)
    pulls.close()
    wait_for(lambda: stub.stopped == before + 1, "the pull to stop", timeout_s=2)
    engine.close()


def test_a_load_takes_its_time_and_ends_with_its_caller(stub: OllamaStub) -> None:
    """A client that gave up does not leave a load behind."""
    stub.load_s = 5
    engine = OllamaEngine(stub.url, timeout_s=0.2)
    with pytest.raises(EngineUnavailable, match=r"silent for 0.2 s; it may hang, or be loading"):
        engine.load("gemma4:e4b")
    wait_for(lambda: stub.stopped == 1, "the load to stop", timeout_s=2)
    assert in_memory(engine) == []
    stub.load_s = 0.05
    engine.load("gemma4:e4b")
    assert in_memory(engine) == ["gemma4:e4b"]
    engine.close()


def test_kinds_are_asked_once_per_model(stub: OllamaStub) -> None:
    """SPEC H9; where Ollama is too old to tell, by the name."""
    asked = []

    @stub.app.middleware("http")
    async def count(request: Any, go_on: Any) -> Any:
        asked.append(request.url.path)
        return await go_on(request)

    engine = OllamaEngine(stub.url)
    for _ in range(3):
        assert engine.models()[0].kinds == {Kind.EMBED}
    assert asked.count("/api/show") == len(stub.models)
    engine.close()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nomic-embed-text", Kind.EMBED),
        ("BAAI/bge-m3", Kind.EMBED),
        ("all-minilm:33m", Kind.EMBED),
        ("intfloat/e5-large-v2", Kind.EMBED),
        ("mxbai-embed-large", Kind.EMBED),
        ("gemma4:e4b", Kind.GENERATE),
        ("qwen3-8b", Kind.GENERATE),
        ("albatross-7b", Kind.GENERATE),
    ],
)
def test_kinds_by_name(name: str, kind: Kind) -> None:
    assert kinds_by_name(name) == {kind}


def test_the_tag_that_goes_without_saying() -> None:
    assert [canonical(name) for name in ("a", "a:latest", "a:7b")] == ["a", "a", "a:7b"]


def test_a_fork_has_its_own_client() -> None:
    """Two processes must not talk over one socket."""
    connection = Connection(httpx.Client)
    mine = connection.get()
    assert connection.get() is mine
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, b"own" if connection.get() is not mine else b"same")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 10) == b"own"
    os.close(read)
    os.close(write)
    connection.close()
    assert mine.is_closed


# The stub


def test_the_official_client_takes_every_byte(stub: OllamaStub) -> None:
    """Issue 4: every call parses, and no field that the stub sends is unknown to the client."""
    client = ollama.Client(stub.url, trust_env=False)
    assert client.generate("gemma4:e4b", "hello", stream=False).response == "You said: hello"
    assert [part.response for part in client.generate("gemma4:e4b", "hello", stream=True)][:2] == ["You", " said:"]
    said = client.chat("gemma4:e4b", [{"role": "user", "content": "hello"}], think=True)
    assert said.message.content == "You said: hello"
    assert said.done_reason == "stop"
    assert len(client.embed("nomic-embed-text", ["a", "b"]).embeddings) == 2
    assert len(client.embed("nomic-embed-text", "a").embeddings) == 1
    assert client.list().models[0].size == int(4.5 * GB)
    assert client.ps().models[0].expires_at is not None
    assert client.show("gemma4:e4b").capabilities == ["completion", "thinking"]
    assert [part.status for part in client.pull("all-minilm", stream=True)][-1] == "success"
    with pytest.raises(ollama.ResponseError, match="not found"):
        client.show("no-such-model")
    client.close()
    known = {
        "/api/tags": (ollama.ListResponse, ollama.ListResponse.Model, {"name"}),
        "/api/ps": (ollama.ProcessResponse, ollama.ProcessResponse.Model, set()),
    }
    for path, (answer, entry, more) in known.items():
        said_json = httpx.get(f"{stub.url}{path}", trust_env=False).json()
        assert said_json.keys() <= answer.model_fields.keys()
        assert said_json["models"]
        for model in said_json["models"]:
            assert model.keys() <= entry.model_fields.keys() | more, "the client leaves `name` of a tag out"
    for path, body, answer_type in (
        ("/api/generate", {"prompt": "x"}, ollama.GenerateResponse),
        ("/api/chat", {"messages": [{"role": "user", "content": "x"}]}, ollama.ChatResponse),
    ):
        text = httpx.post(f"{stub.url}{path}", json={"model": "gemma4:e4b", **body}, trust_env=False).text
        for line in text.splitlines():
            assert json.loads(line).keys() <= answer_type.model_fields.keys()


def test_as_a_process_it_can_be_killed() -> None:
    """For benchmarks and fault tests: knobs over HTTP, and a death that resets every connection."""
    with stub_process("ollama_stub", token_s=0.01, reply_tokens=10_000, vram_gb=24.0) as url:
        engine = OllamaEngine(url, timeout_s=10)
        chunks = engine.generate("x")
        next(chunks)
        assert httpx.get(f"{url}/stub/state", trust_env=False).json()["running"] == 1
        with pytest.raises(httpx.TransportError):
            httpx.post(f"{url}/stub/crash", trust_env=False)
        with pytest.raises(EngineUnavailable, match="broke off"):
            list(chunks)
        assert not engine.check().reachable
        engine.close()


def test_a_gated_ollama_gets_its_key_with_every_question(
    engine: OllamaEngine, stub: OllamaStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OLLAMA_API_KEY, as the official client sends it: also where we ask for the version ourselves."""

    @stub.app.middleware("http")
    async def gate(request: Any, answer: Any) -> Any:
        if request.headers.get("authorization") != "Bearer opens":
            return Response(status_code=401)
        return await answer(request)

    monkeypatch.setenv("OLLAMA_API_KEY", "opens")
    status = engine.check()
    assert status.reachable, status.error
    assert status.version
