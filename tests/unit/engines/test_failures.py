"""What goes wrong between an engine and its server, and what the caller hears of it (STYLE 8, 18)."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from ollama_stub import OllamaStub
from stub_server import StubServer
from waiting import wait_for

from gpu_mesh.engines import Engine, failures
from gpu_mesh.engines.openai import OpenAIEngine
from gpu_mesh.errors import (
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    EngineUnsupported,
    InvalidTask,
    ModelNotFound,
)

from .worlds import EMBEDDERS, FAULTS, GENERATORS, SILENCE_S, STUBS, Case


@pytest.fixture(scope="module", params=sorted(STUBS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(name: str) -> Iterator[StubServer]:
    with STUBS[name][0]() as stub:
        yield stub


@pytest.fixture
def stub(server: StubServer) -> Iterator[StubServer]:
    """The module's stub, behaving well."""
    yield server
    server.token_s, server.reply_tokens = 0.0, None
    server.fail("none", times=0)


@pytest.fixture(scope="module")
def engine(name: str, server: StubServer) -> Iterator[Engine]:
    """An engine with little patience."""
    made = STUBS[name][1](server.url, timeout_s=SILENCE_S)
    yield made
    made.close()


@pytest.mark.parametrize("case", FAULTS, ids=lambda case: case.words)
def test_a_failure_is_ours_by_kind(engine: Engine, stub: StubServer, case: Case) -> None:
    """SPEC R4: exactly this error, naming the address or the field, from generate and chat; the next call works."""
    for work in (lambda: engine.generate("some words"), lambda: engine.chat([{"role": "user", "content": "words"}])):
        stub.fail(**case.fault)
        got = []
        with pytest.raises(EngineError if case.raises is not InvalidTask else InvalidTask) as caught:
            got.extend(work())
        assert type(caught.value) is case.raises
        assert stub.url in str(caught.value) or case.raises is InvalidTask
        assert bool(got) == case.in_stream, "what came before it was handed on"
        assert caught.value.__cause__ is None or type(caught.value) is EngineError
        assert list(work())[-1].done


@pytest.mark.parametrize("case", [case for case in FAULTS if not case.in_stream], ids=lambda case: case.words)
def test_embedding_fails_alike(engine: Engine, stub: StubServer, case: Case) -> None:
    stub.fail(**case.fault)
    with pytest.raises(case.raises) as caught:
        engine.embed(["some words"])
    assert type(caught.value) is case.raises
    assert len(engine.embed(["some words"]).vectors) == 1


def test_nobody_there(name: str, free_port: int) -> None:
    """SPEC R4, H1: work raises, a check tells."""
    engine = STUBS[name][1](f"http://127.0.0.1:{free_port}", timeout_s=SILENCE_S)
    model = GENERATORS[name]
    for work in (
        lambda: list(engine.generate("x", model)),
        lambda: list(engine.generate("x")),
        lambda: engine.embed(["x"], EMBEDDERS[name]),
        engine.models,
    ):
        with pytest.raises(EngineUnavailable, match=r"does not answer .* running there") as caught:
            work()
        assert type(caught.value) is EngineUnavailable
    status = engine.check()
    assert (status.reachable, status.models) == (False, ())
    assert "does not answer" in str(status.error)


def test_a_crash_and_a_restart(name: str) -> None:
    """SPEC H5: process death while it answers, then back at the same address, the same engine goes on."""
    make_stub, make_engine = STUBS[name]
    stub = make_stub()
    stub.start()
    engine = make_engine(stub.url, timeout_s=5)
    try:
        stub.token_s, stub.reply_tokens = 0.01, 10_000
        chunks = engine.generate("x")
        next(chunks)
        stub.crash()
        with pytest.raises(EngineUnavailable, match="broke off"):
            list(chunks)
        with pytest.raises(EngineUnavailable, match="does not answer"):
            list(engine.generate("x", GENERATORS[name]))
        stub.token_s, stub.reply_tokens = 0.0, None
        stub.start()
        assert list(engine.generate("x"))[-1].done
    finally:
        engine.close()
        stub.stop()


def test_closing_stops_the_work_at_the_server(engine: Engine, stub: StubServer) -> None:
    """Issue 4: stopped in the middle, the GPU is free at once."""
    stub.token_s, stub.reply_tokens = 0.005, 100_000
    before = stub.stopped
    chunks = engine.generate("x")
    next(chunks)
    assert stub.running == 1
    chunks.close()
    wait_for(lambda: stub.running == 0, "the work to stop", timeout_s=2)
    assert stub.stopped == before + 1
    assert stub.tokens_sent < 50_000


def test_an_error_of_the_consumer_stops_the_work_too(engine: Engine, stub: StubServer) -> None:
    """And stays what it is."""
    stub.token_s, stub.reply_tokens = 0.005, 100_000
    chunks = engine.generate("x")
    next(chunks)
    with pytest.raises(ValueError, match="mine"):
        chunks.throw(ValueError("mine"))
    wait_for(lambda: stub.running == 0, "the work to stop", timeout_s=2)


def test_a_slow_answer_is_no_silent_one(engine: Engine, stub: StubServer) -> None:
    """The limit is on silence, not on the whole."""
    stub.token_s, stub.reply_tokens = SILENCE_S / 3, 6
    assert list(engine.generate("x"))[-1].output_tokens == 6


def test_a_check_has_a_limit_of_its_own(name: str) -> None:
    """SPEC H9: the long patience of work is not that of a check."""
    make_stub, make_engine = STUBS[name]
    with make_stub() as stub:
        engine = make_engine(stub.url, timeout_s=60, check_timeout_s=0.1)
        stub.stop()
        # Accepts, and says nothing.
        import socket

        with socket.socket() as mute:
            mute.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            mute.bind(("127.0.0.1", stub.port))
            mute.listen()
            status = engine.check()
        assert not status.reachable
        assert status.response_ms < 2_000
        assert "silent" in str(status.error)
        with pytest.raises(EngineTimeout):
            raise failures.timed_out(name, stub.url, 1)
        engine.close()


def test_a_server_of_another_kind_is_told(name: str, server: StubServer) -> None:
    other = next(made for kind, (_, made) in STUBS.items() if kind != name)
    engine = other(server.url)
    status = engine.check()
    assert not status.reachable
    assert "is another program listening" in str(status.error)
    engine.close()


def test_without_the_way_there_the_work_is_unsupported() -> None:
    """As vLLM with a generating model answers for embeddings."""
    with OllamaStub() as stub:
        stub.app.add_api_route("/v1/models", lambda: {"object": "list", "data": [{"id": "m", "object": "model"}]})
        engine = OpenAIEngine(stub.url)
        with pytest.raises(EngineUnsupported, match="Not Found"):
            engine.embed(["x"])
        engine.close()


def test_a_model_that_goes_away_in_between(name: str, engine: Engine, stub: StubServer) -> None:
    stub.fail("error", status=404, text="model 'x' not found")
    with pytest.raises(ModelNotFound):
        list(engine.generate("x", GENERATORS[name]))


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("http://127.0.0.1:1", True),
        ("http://localhost", True),
        ("http://[::1]:5", True),
        ("http://10.0.0.7:11434", False),
        ("https://gpu.example.com", False),
    ],
)
def test_no_proxy_stands_before_this_machine(url: str, own: bool) -> None:
    assert failures.is_loopback(url) is own


def test_a_proxy_of_the_environment_is_not_asked(name: str, stub: StubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY of a company would swallow loopback."""
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    engine = STUBS[name][1](stub.url)
    assert engine.check().reachable
    assert list(engine.generate("x"))[-1].done
    engine.close()


def test_long_words_are_cut() -> None:
    """STYLE 18."""
    error = failures.of_answer("ollama", "http://h", 500, "x " * 10_000, None)
    assert len(str(error)) < 500
    assert isinstance(failures.broke_off("ollama", "http://h", httpx.ReadError("")), EngineUnavailable)
