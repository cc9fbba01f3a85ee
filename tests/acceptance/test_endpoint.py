"""`gpu-mesh up` whose only device is an engine's address, with a stub in the engine's place (SPEC N5)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from mesh_scripts import write_scripts
from ollama_stub import MODELS, OllamaStub, StubModel
from processes import gpu_mesh, run

READY = "endpoint0@tunnel ready."


@dataclass
class Tunnel:
    """A mesh whose only device is the stub's address."""

    stub: OllamaStub
    env: dict[str, str]

    def ask(self, *args: str) -> Any:
        """What `gpu-mesh ARGS --json` prints."""
        ran = run(*args, "--json", env=self.env)
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    def waiting(self) -> dict[str, str]:
        """Why each waiting task waits, by its id."""
        return {task["id"]: task["why"] for task in self.ask("tasks", "--waiting")}


@pytest.fixture(scope="module")
def tunnel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tunnel]:
    folder = tmp_path_factory.mktemp("endpoint")
    with OllamaStub(models=(*MODELS, StubModel("giant:120b", 60.0))) as stub:
        # So much that it would keep all of them.
        stub.vram_gb = 100.0
        env = {
            "GPU_MESH_STATE_DIR": str(folder / "state"),
            "GPU_MESH_INCLUDE": "engine_tasks,sample_tasks",
            "GPU_MESH_DEVICES": f"endpoint:A40:40:{stub.url}",
            "GPU_MESH_SCRIPTS_DIR": str(write_scripts(folder)),
            "GPU_MESH_RESIDENT_MODELS": "nomic-embed-text",
            "NODE_NAME": "tunnel",
        }
        with gpu_mesh("up", log=folder / "up.log", ready=READY, env=env):
            yield Tunnel(stub, env)


def test_what_needs_a_process_waits_and_blocks_nobody(tunnel: Tunnel) -> None:
    """N5, P2: a script and an application's task stay, with the reason; what came later runs at the address."""
    script = tunnel.ask("submit", "custom", '["echo.py", {}]')["task_id"]
    own = tunnel.ask("submit", "sample_tasks.add", "[1, 2]")["task_id"]
    pinned = tunnel.ask("submit", "custom", '["echo.py", {}]', "--device", "endpoint0")["task_id"]
    told = tunnel.ask("submit", "engine_tasks.embed_there", '[["a", "b"]]', "--wait")
    assert told["result"] == {"worker": "endpoint0@tunnel", "engine": "ollama", "url": tunnel.stub.url, "count": 2}
    assert [path for path, _ in tunnel.stub.requests] == ["/api/embed"]
    waits = tunnel.waiting()
    assert waits.keys() == {script, own, pinned}
    for why in waits.values():
        assert "endpoint0@tunnel is only an engine's address" in why


def test_a_script_that_is_sent_there_all_the_same(tunnel: Tunnel) -> None:
    """N5, T: its caller's `--remote` is refused by the worker, which starts no process."""
    ran = run("submit", "custom", '["echo.py", {}]', "--remote", "--wait", env=tunnel.env)
    assert ran.returncode == 1
    assert "ScriptRefused" in ran.stderr
    assert "a script runs on the device's own machine" in ran.stderr


def test_what_is_told_to_stay_away(tunnel: Tunnel) -> None:
    """N5: `--no-remote` keeps a task off addresses that would run there."""
    kept = tunnel.ask("submit", "engine_tasks.embed_there", '[["a"]]', "--no-remote")["task_id"]
    assert "for remote=True" in tunnel.waiting()[kept]


def test_one_main_model_and_the_resident_one(tunnel: Tunnel) -> None:
    """P6, P7: whoever used the engine before; what can never fit is refused, and nothing is unloaded for it."""
    vectors = tunnel.ask("submit", "embeddings", '[["a"]]', "--wait")
    assert vectors["result"]["model"] == "nomic-embed-text"
    for model in ("gemma4:e4b", "gemma4:12b"):
        told = tunnel.ask("submit", "llm_inference", '["hello"]', "--model", model, "--wait")
        assert told["result"]["device"] == "endpoint0@tunnel"
        assert sorted(tunnel.stub.loaded) == [model, "nomic-embed-text:latest"]
    ran = run("submit", "llm_inference", '["hello"]', "--model", "giant:120b", "--wait", env=tunnel.env)
    assert "giant:120b takes 60.0 GB, 60.5 GB with the resident nomic-embed-text; endpoint0@tunnel offers" in ran.stderr
    assert sorted(tunnel.stub.loaded) == ["gemma4:12b", "nomic-embed-text:latest"]
