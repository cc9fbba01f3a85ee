"""Which engine serves which device: bound, found, in this process; what doctor says of it (SPEC P7, N1, N5)."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import pytest
from ollama_stub import OllamaStub
from openai_stub import OpenAIStub

from gpu_mesh.cli.engine_findings import engine_findings
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.engines import discovery, engine_for
from gpu_mesh.engines.base import Kind
from gpu_mesh.engines.binding import Engines
from gpu_mesh.errors import EngineUnavailable, InvalidSetting, ModelNotFound
from gpu_mesh.services.settings_table import rows
from gpu_mesh.settings import Settings, load


@pytest.fixture(scope="module")
def ollama() -> Iterator[OllamaStub]:
    with OllamaStub() as stub:
        yield stub


@pytest.fixture(scope="module")
def vllm() -> Iterator[OpenAIStub]:
    with OpenAIStub() as stub:
        yield stub


def device(name: str = "gpu0", kind: DeviceKind = DeviceKind.NVIDIA, url: str | None = None) -> Device:
    return Device(name=name, node="n1", kind=kind, gpu_type="RTX 4090", memory_gb=24, engine_url=url)


_made: list[Engines] = []


@pytest.fixture(autouse=True)
def closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test made is closed after it; engines are those by default, not those of all other tests."""
    monkeypatch.delenv("GPU_MESH_ENGINES")
    yield
    while _made:
        _made.pop().close()


def engines(*addresses: str, **values: Any) -> Engines:
    found = Engines(Settings(_env_file=None, engine_check_timeout_s=1, **values), addresses=lambda: addresses)
    _made.append(found)
    return found


def names(found: Engines, *args: Any, **kwargs: Any) -> list[str]:
    return [engine.name for engine in found.of(device(*args, **kwargs))]


def test_nothing_found_leaves_this_process(free_port: int) -> None:
    """SPEC N1: zero configuration; what cannot be done says what to do."""
    found = engines(f"http://127.0.0.1:{free_port}")
    assert names(found) == ["local"]
    assert found.choose(device(), Kind.EMBED).name == "local"
    with pytest.raises(EngineUnavailable, match="can generate was found for gpu0@n1; start Ollama"):
        found.choose(device(), Kind.GENERATE)


def test_what_is_found_comes_in_the_settings_order(ollama: OllamaStub, vllm: OpenAIStub) -> None:
    assert names(engines(vllm.url, ollama.url)) == ["ollama", "openai", "local"]
    assert names(engines(vllm.url, ollama.url, engines=("openai", "ollama"))) == ["openai", "ollama"]
    assert names(engines(vllm.url, ollama.url, engines=("local",))) == ["local"]
    assert names(engines(ollama.url, engines=("local", "ollama"))) == ["local", "ollama"]


def test_each_device_has_its_own_address(ollama: OllamaStub, vllm: OpenAIStub) -> None:
    """SPEC P7: by setting, by its own declaration; the setting wins. What answers there is found out."""
    found = engines(engine_urls={"gpu0": ollama.url, "gpu1": vllm.url})
    assert [found.of(device(name))[0].url for name in ("gpu0", "gpu1")] == [ollama.url, vllm.url]
    assert names(found, "gpu1") == ["openai", "local"]
    assert found.of(device("gpu0", url="http://127.0.0.1:1"))[0].url == ollama.url
    assert found.of(device("gpu7", url=vllm.url))[0].name == "openai"


def test_an_endpoint_has_its_address_alone(ollama: OllamaStub, vllm: OpenAIStub, free_port: int) -> None:
    """SPEC N5: nothing of this machine does its work, also while it is away."""
    found = engines(ollama.url)
    assert names(found, "endpoint0", DeviceKind.ENDPOINT, vllm.url) == ["openai"]
    away = device("endpoint1", DeviceKind.ENDPOINT, f"http://127.0.0.1:{free_port}")
    with pytest.raises(EngineUnavailable, match="does not answer"):
        found.choose(away, Kind.EMBED).embed(["x"])


def test_one_engine_per_address_and_process(ollama: OllamaStub) -> None:
    found = engines(ollama.url)
    assert found.of(device())[0] is found.of(device("gpu1"))[0]
    settings = Settings(_env_file=None, engine_urls={"gpu0": ollama.url})
    assert engine_for(device(), settings) is engine_for(device(), settings)
    assert engine_for(device(), settings).url == ollama.url


def test_the_engine_that_has_the_model_is_chosen(ollama: OllamaStub, vllm: OpenAIStub) -> None:
    found = engines(ollama.url, vllm.url)
    assert found.choose(device(), Kind.GENERATE).name == "ollama"
    assert found.choose(device(), Kind.GENERATE, "qwen3-8b").name == "openai"
    assert found.choose(device(), Kind.EMBED).name == "ollama"
    assert found.choose(device(), Kind.EMBED, "nomic-embed-text:latest").name == "ollama"
    assert found.choose(device(), Kind.EMBED, "wordllama-64").name == "local"
    assert found.choose(device()).name == "ollama"
    with pytest.raises(ModelNotFound, match="it has: nomic-embed-text"):
        found.choose(device(), Kind.EMBED, "no-such").embed(["x"], "no-such")


def test_without_an_embedder_there_this_process_embeds() -> None:
    """SPEC N1: an Ollama that only chats takes nothing away."""
    with OllamaStub() as stub:
        del stub.models["nomic-embed-text:latest"]
        found = engines(stub.url)
        assert found.choose(device(), Kind.EMBED).name == "local"
        assert found.choose(device(), Kind.GENERATE).name == "ollama"


def test_work_does_not_move_to_other_models_while_a_server_is_away() -> None:
    """Vectors of another model would be mixed in, in silence."""
    with OllamaStub() as stub:
        found = engines(stub.url)
        assert found.choose(device(), Kind.EMBED).name == "ollama"
        stub.crash()
        with pytest.raises(EngineUnavailable, match="does not answer"):
            found.choose(device(), Kind.EMBED)
        stub.start()
        assert found.choose(device(), Kind.EMBED).name == "ollama"


def test_a_fork_looks_for_itself(ollama: OllamaStub) -> None:
    """A lock or a socket of the parent must not be used in its child."""
    code = f"""
        import os
        from gpu_mesh.domain.device import Device, DeviceKind
        from gpu_mesh.engines import engine_for
        from gpu_mesh.settings import Settings
        settings = Settings(_env_file=None, engine_urls={{"gpu0": {ollama.url!r}}})
        device = Device(name="gpu0", node="n", kind=DeviceKind.FAKE, gpu_type="x", memory_gb=1)
        engine = engine_for(device, settings)
        engine.models()
        child = os.fork()
        if child == 0:
            again = engine_for(device, settings)
            os._exit(0 if again is not engine and again.models() == engine.models() else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("0", "")


def test_nothing_is_opened_or_loaded_at_import() -> None:
    """Issue 4: never at import; the clients' packages take a second."""
    code = "import sys, gpu_mesh.engines; print([name for name in ('ollama', 'openai') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


# Discovery


def test_ports_that_are_mute_or_no_engine_cost_little(ollama: OllamaStub) -> None:
    """SPEC H9: all are asked at once, with a deadline, whatever listens there."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        silent = f"http://127.0.0.1:{mute.getsockname()[1]}"
        began = time.monotonic()
        found = discovery.find([silent, silent + "/a", silent + "/b", ollama.url], ("openai", "ollama"))
        assert time.monotonic() - began < 2 * discovery.PROBES_TIMEOUT_S
    assert [(one.kind, one.url) for one in found] == [("ollama", ollama.url)]


def test_an_ollama_is_never_taken_for_a_lesser_server() -> None:
    """It speaks OpenAI's API too, but then cannot unload."""
    with OllamaStub() as stub:
        stub.app.add_api_route("/v1/models", lambda: {"object": "list", "data": []})
        assert discovery.identify(stub.url, ("openai", "ollama")) == "ollama"
        assert discovery.identify(stub.url, ("openai",)) == "openai"


def test_a_web_page_is_no_engine(ollama: OllamaStub) -> None:
    """As LM Studio answers a path it does not know, and as any other program does."""
    with OpenAIStub() as stub:
        stub.app.add_api_route("/other/api/version", lambda: {"error": "Unexpected endpoint"})
        assert discovery.identify(f"{stub.url}/other", ("ollama", "openai")) is None
    assert discovery.identify(ollama.url, ("openai",)) is None


USUAL = tuple(f"http://127.0.0.1:{port}" for port in (11434, 1234, 8080, 8000))


@pytest.mark.parametrize(
    ("value", "first"),
    [
        ("", None),
        ("0.0.0.0", None),
        ("0.0.0.0:11434", None),
        ("localhost", "http://localhost:11434"),
        (":11500", "http://127.0.0.1:11500"),
        ("10.0.0.7", "http://10.0.0.7:11434"),
        ("http://gpu", "http://gpu:80"),
        ("https://gpu/ollama/", "https://gpu:443/ollama"),
        ("[::]:11500", "http://[::1]:11500"),
        ("host:port", None),
        ("ftp://host", None),
    ],
)
def test_ollamas_own_variable(value: str, first: str | None) -> None:
    """As Ollama's tools read it; each place once."""
    found = discovery.usual_addresses({"OLLAMA_HOST": value})
    if first is None:
        assert found == USUAL
    elif discovery.place(first) == discovery.place(USUAL[0]):
        assert found == (first, *USUAL[1:])
    else:
        assert found == (first, *USUAL)


def test_places() -> None:
    """SPEC P7: one server by several names."""
    same = ["http://127.0.0.1:11434", "http://localhost:11434/", "http://[::1]:11434", "http://127.0.0.1:11434/v1"]
    assert len(set(map(discovery.place, same))) == 1
    assert discovery.place("http://h") == discovery.place("http://H:80")
    assert discovery.place("http://h:1") != discovery.place("http://h:2")
    assert discovery.kind_by_port("http://h:8000") == "openai"
    assert discovery.kind_by_port("http://h:11434") == "ollama"


# Settings


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("ENGINES", "ollama,vllm", "one or more of ollama, openai, local"),
        ("ENGINES", ",", "one or more of"),
        ("ENGINE_URLS", "gpu0", "name=value pairs"),
        ("ENGINE_URLS", "gpu0=11434", "http:// or https://"),
        ("ENGINE_URLS", "gpu0=http://me:pass@h", "without user, password"),
        ("ENGINE_TIMEOUT_S", "0", "greater than 0"),
        ("KEY", "x", "no such setting"),
    ],
)
def test_refused_settings(name: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"GPU_MESH_{name}", value)
    with pytest.raises(InvalidSetting, match=reason) as caught:
        load(None)
    assert "pass@" not in str(caught.value)


def test_the_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_MESH_ENGINE_KEY", "k-secret")
    settings = load(None)
    assert settings.engine_key is not None
    assert settings.engine_key.get_secret_value() == "k-secret"
    assert "k-secret" not in repr(settings) + str(rows(settings, None))


def test_the_key_goes_only_where_an_operator_sent_it() -> None:
    """Never to whatever listens on a port."""
    with OpenAIStub() as stub:
        engines(stub.url, engine_key="k1").of(device())[0].models()
        assert "Bearer k1" not in stub.keys
        engines(engine_key="k1", engine_urls={"gpu0": stub.url}).of(device())[0].models()
        assert stub.keys[-1] == "Bearer k1"


# Doctor


def told(found: Engines, *devices: Device, **values: Any) -> list[tuple[str, str]]:
    settings = Settings(_env_file=None, engine_check_timeout_s=1, **values)
    return [
        (finding.level, f"{finding.found} {finding.remedy}") for finding in engine_findings(devices, settings, found)
    ]


def test_doctor_names_what_serves_each_device(ollama: OllamaStub, free_port: int) -> None:
    [(level, text)] = told(engines(ollama.url), device())
    assert level == "ok"
    assert f"gpu0: ollama 0.12.6 at {ollama.url}" in text
    assert "nomic-embed-text, gemma4:e4b" in text
    [(level, text)] = told(engines(f"http://127.0.0.1:{free_port}"), device())
    assert level == "ok"
    assert "in-process, embeds with" in text
    assert "install Ollama" in text


def test_doctor_warns_of_a_shared_address(ollama: OllamaStub, vllm: OpenAIStub) -> None:
    """SPEC P7: by whatever names; not where each has its own."""
    two = device("gpu0"), device("gpu1")
    urls = {"gpu0": ollama.url, "gpu1": ollama.url.replace("127.0.0.1", "localhost")}
    *_, (level, text) = told(engines(engine_urls=urls), *two, engine_urls=urls)
    assert level == "note"
    assert "gpu0, gpu1 share the engine at" in text
    assert "run one Ollama per GPU" in text
    assert any("share" in text for _, text in told(engines(ollama.url), *two))
    urls["gpu1"] = vllm.url
    assert [level for level, _ in told(engines(engine_urls=urls), *two, engine_urls=urls)] == ["ok", "ok"]


def test_doctor_names_what_is_away_on_the_cpu_or_misspelt(free_port: int) -> None:
    urls = {"gpu0": f"http://127.0.0.1:{free_port}", "gpu9": "http://127.0.0.1:9"}
    (level, text), (wrong, names_text) = told(engines(engine_urls=urls), device(), engine_urls=urls)
    assert (level, wrong) == ("missing", "missing")
    assert "does not answer" in text
    assert "names gpu9; the devices of this node are gpu0" in names_text
    with OllamaStub() as stub:
        stub.others_gb, stub.ram_gb = 5.0, 64.0
        found = engines(stub.url)
        list(found.choose(device(), Kind.GENERATE).generate("x", "gemma4:12b"))
        assert any("the CPU does 50% of gemma4:12b" in text for _, text in told(found, device()))
        assert not any("the CPU does" in text for _, text in told(found, device("cpu0", DeviceKind.CPU)))
