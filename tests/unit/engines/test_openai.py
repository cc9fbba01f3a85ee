"""OpenAI-compatible servers: keys, addresses, options, what is not offered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai_stub import OpenAIStub

from gpu_mesh.engines.openai import OpenAIEngine, api_url
from gpu_mesh.engines.options import GenerateOptions
from gpu_mesh.errors import EngineError, EngineUnsupported, ModelNotFound


@pytest.fixture
def stub() -> Iterator[OpenAIStub]:
    with OpenAIStub() as stub:
        yield stub


def test_no_key_is_needed_and_none_is_given_away(stub: OpenAIStub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key in the environment is for OpenAI, not for whoever listens on a port."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    engine = OpenAIEngine(stub.url)
    list(engine.generate("x"))
    assert set(stub.keys) == {"Bearer none"}
    engine.close()


def test_a_key_is_sent_where_one_is_set() -> None:
    with OpenAIStub(key="k1") as stub:
        engine, wrong = OpenAIEngine(stub.url, key="k1"), OpenAIEngine(stub.url, key="k2")
        assert engine.check().reachable
        with pytest.raises(EngineError, match="GPU_MESH_ENGINE_KEY") as caught:
            wrong.models()
        assert "k2" not in str(caught.value)
        engine.close()
        wrong.close()


def test_options_go_over_under_their_names(stub: OpenAIStub) -> None:
    engine = OpenAIEngine(stub.url)
    chosen = GenerateOptions(max_tokens=5, temperature=0, top_p=0.9, top_k=40, seed=7, stop=("x",))
    list(engine.chat([{"role": "user", "content": "hi"}], options=chosen))
    path, body = stub.requests[-1]
    assert path == "/v1/chat/completions"
    given = {name: body[name] for name in ("max_tokens", "temperature", "top_p", "top_k", "seed", "stop")}
    assert given == {"max_tokens": 5, "temperature": 0, "top_p": 0.9, "top_k": 40, "seed": 7, "stop": ["x"]}
    list(engine.generate("hi", system="Be brief."))
    assert stub.requests[-1][1]["messages"][0] == {"role": "system", "content": "Be brief."}
    list(engine.generate("hi", system="Be brief.", options=GenerateOptions(raw=True)))
    assert (stub.requests[-1][0], stub.requests[-1][1]["prompt"]) == ("/v1/completions", "Be brief.\n\nhi")
    engine.close()


def test_a_name_it_does_not_list_never_reaches_it(stub: OpenAIStub) -> None:
    """llama.cpp would answer with the model it has."""
    engine = OpenAIEngine(stub.url)
    with pytest.raises(ModelNotFound, match=r"it has: bge-small-en-v1\.5, qwen3-8b"):
        list(engine.generate("x", "gpt-4"))
    assert stub.requests == []
    engine.close()


def test_unload_says_clearly_that_it_is_not_offered(stub: OpenAIStub) -> None:
    """SPEC P7."""
    engine = OpenAIEngine(stub.url)
    with pytest.raises(EngineUnsupported, match="does not unload models; stop that server to free the memory"):
        engine.unload()
    engine.close()


@pytest.mark.parametrize(
    ("url", "api"),
    [
        ("http://h:8000", "http://h:8000/v1"),
        ("http://h:8000/", "http://h:8000/v1"),
        ("http://h:8000/v1", "http://h:8000/v1"),
        ("https://h/team/v1", "https://h/team/v1"),
    ],
)
def test_the_address_of_the_api(url: str, api: str) -> None:
    assert api_url(url) == api
