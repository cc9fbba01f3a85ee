"""The A/B example, run: two variants on two devices, each with an engine of its own (SPEC P4, P7)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ollama_stub import OllamaStub
from processes import START_S, gpu_mesh
from waiting import wait_for

EXAMPLES = Path(__file__).parents[2] / "examples"
#: Seconds between two tokens of the slower engine.
SLOW_S = 0.03
REPLY_TOKENS = 15
DEVICES = "fake:RTX 4090:24,fake:RTX 4090:24"


@dataclass
class Mesh:
    """Two workers, and the engine of each."""

    env: dict[str, str]
    fast: OllamaStub
    slow: OllamaStub

    def compare(self, *args: str) -> subprocess.CompletedProcess[str]:
        """`python -m ab ARGS`."""
        for stub in (self.fast, self.slow):
            stub.requests.clear()
        command = [sys.executable, "-m", "ab", *args]
        return subprocess.run(command, capture_output=True, text=True, env=self.env, timeout=90, check=False)


@pytest.fixture(scope="module")
def mesh(empty_redis: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    log = tmp_path_factory.mktemp("ab") / "log"
    with OllamaStub() as fast, OllamaStub() as slow:
        fast.reply_tokens = slow.reply_tokens = REPLY_TOKENS
        slow.token_s = SLOW_S
        given = {
            "NODE_NAME": "bench",
            "GPU_MESH_ENGINES": "ollama",
            "GPU_MESH_ENGINE_URLS": f"gpu0={fast.url},gpu1={slow.url}",
            "PYTHONPATH": os.pathsep.join((str(EXAMPLES), os.environ["PYTHONPATH"])),
            # Wide enough for the table.
            "COLUMNS": "140",
        }
        with gpu_mesh("worker", "--devices", DEVICES, log=log, ready="gpu0@bench ready.", env=given):
            wait_for(lambda: "gpu1@bench ready." in log.read_text(errors="replace"), str(log), START_S)
            yield Mesh({**os.environ, **given}, fast, slow)


def figures(output: str, variant: str) -> list[str]:
    """The cells of a variant's line in the table."""
    (line,) = [line for line in output.splitlines() if line.startswith(f"{variant}  ")]
    return line.split()[1:]


def test_two_variants_are_compared(mesh: Mesh) -> None:
    """Both are asked the same, each on its own device; the table shows who was faster."""
    ran = mesh.compare("gpu0=gemma4:e4b", "gpu1@bench=gemma4:12b", "--answers")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    fast, slow = figures(ran.stdout, "gemma4:e4b"), figures(ran.stdout, "gemma4:12b")
    assert (fast[0], slow[0]) == ("gpu0@bench", "gpu1@bench")
    assert fast[1:3] == slow[1:3] == ["5", "0"]
    assert 0 < float(slow[4]) <= 1 / SLOW_S < float(fast[4])
    assert float(slow[6]) >= (REPLY_TOKENS - 1) * SLOW_S
    assert fast[5] == slow[5] == str(REPLY_TOKENS)
    for variant in ("gemma4:e4b", "gemma4:12b"):
        assert ran.stdout.count(f"  {variant}: You said:") == 5


def test_each_variant_stays_on_its_engine(mesh: Mesh, tmp_path: Path) -> None:
    """The same questions in the same order, with the same options."""
    prompts = tmp_path / "prompts"
    prompts.write_text("one question\n\nanother question\n")
    ran = mesh.compare("gpu0=gemma4:e4b", "gpu1=gemma4:12b", "--prompts", str(prompts), "--max-tokens", "3")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    asked = {}
    for stub, model in ((mesh.fast, "gemma4:e4b"), (mesh.slow, "gemma4:12b")):
        # What only loads has neither prompt nor messages.
        bodies = [body for _, body in stub.requests if body.get("prompt") or body.get("messages")]
        assert {body["model"] for _, body in stub.requests} == {model}
        assert len(bodies) == 2
        asked[model] = [{**body, "model": None} for body in bodies]
    assert asked["gemma4:e4b"] == asked["gemma4:12b"]
    assert "one question" in str(asked["gemma4:e4b"][0])
    assert asked["gemma4:e4b"][0]["options"]["num_predict"] == 3


def test_a_variant_that_fails_is_in_the_table(mesh: Mesh) -> None:
    """The other one is measured all the same."""
    ran = mesh.compare("gpu0=gemma4:e4b", "gpu1=nosuch:1b")
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert figures(ran.stdout, "gemma4:e4b")[1:3] == ["5", "0"]
    assert figures(ran.stdout, "nosuch:1b")[:3] == ["gpu1", "0", "5"]
    assert "nosuch:1b, question 1, 2, 3, 4, 5: ModelNotFound" in ran.stdout


@pytest.mark.parametrize("wrong", [["gpu0"], ["gpu0=gemma4:e4b"], ["gpu0=gemma4:e4b", "gpu0=gemma4:e4b"]])
def test_wrong_usage_is_said(mesh: Mesh, wrong: list[str]) -> None:
    ran = mesh.compare(*wrong)
    assert ran.returncode == 2
    assert "usage: python -m ab" in ran.stderr
