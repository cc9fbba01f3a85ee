"""What the README says is true: its commands run, its code runs, its links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ollama_stub import OllamaStub
from processes import gpu_mesh
from rest import api

from gpu_mesh.settings import Settings, env_name, settings
from gpu_mesh.settings.reading import SET_FOR_SCRIPTS
from gpu_mesh.testing import mesh_eager

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

__all__ = ["mesh_eager"]


def blocks(kind: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def mesh(empty_redis: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    log = tmp_path_factory.mktemp("readme") / "log"
    with OllamaStub() as stub:
        env = {"NODE_NAME": "readme", **engines(gpu0=stub.url)}
        with gpu_mesh("worker", "--devices", "fake:RTX 4090:24", log=log, ready="gpu0@readme ready.", env=env):
            yield


def engines(**urls: str) -> dict[str, str]:
    return {
        "GPU_MESH_ENGINES": "ollama,local",
        "GPU_MESH_ENGINE_URLS": ",".join(f"{device}={url}" for device, url in urls.items()),
    }


@pytest.fixture
def ollama() -> Iterator[None]:
    """An Ollama on this machine, for what runs in this process."""
    with OllamaStub() as stub, pytest.MonkeyPatch.context() as patch:
        for name, value in engines(cpu0=stub.url).items():
            patch.setenv(name, value)
        settings.cache_clear()
        yield
    settings.cache_clear()


COMMANDS = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_works(mesh: None, command: str) -> None:
    """Every line of a `console` block, against a running mesh."""
    program, *args = shlex.split(command)
    module = {"gpu-mesh": "gpu_mesh", "celery": "celery"}[program]
    ran = subprocess.run(
        [sys.executable, "-m", module, *args], capture_output=True, text=True, timeout=60, env=os.environ, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.strip()


#: What a reader's curl does not do by itself: fail where the API refuses, and end; and where this API's port is.
CURLRC = """
silent
show-error
fail-with-body
max-time = 60
write-out = "\\n"
connect-to = "localhost:8001:127.0.0.1:{port}"
"""


@pytest.fixture(scope="module")
def home(mesh: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home in which curl reaches the mesh's API."""
    folder = tmp_path_factory.mktemp("home")
    with api(folder) as client:
        (folder / ".curlrc").write_text(CURLRC.format(port=client.base_url.port))
        yield folder


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed here")
@pytest.mark.parametrize(
    ("page", "answers"),
    [
        pytest.param(README, ['"state":"SUCCESS"', "event: done", '"was":"waiting","state":"REVOKED"'], id="README.md"),
        pytest.param(API, ['"state":"SUCCESS"', "idempotent-replayed: true", '"task_ids":['], id="api.md"),
    ],
)
def test_every_curl_line_works(home: Path, page: str, answers: list[str]) -> None:
    """SPEC A1: all `sh` blocks of a page, pasted into one shell. The file that CURL_TRANSCRIPT names is given each line
    and what came."""
    script = "".join(blocks("sh", page))
    ran = subprocess.run(
        ["bash", "-v", "-eu", "-o", "pipefail"],
        input=script,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        check=False,
    )
    if name := os.environ.get("CURL_TRANSCRIPT"):
        with Path(name).open("a") as transcript:
            transcript.write(ran.stdout)
    assert ran.returncode == 0, ran.stdout
    assert [line for line in script.splitlines() if "curl" in line and line not in ran.stdout.splitlines()] == []
    assert [answer for answer in answers if answer not in ran.stdout] == []
    # A task that failed is a 200 too.
    assert "FAILURE" not in ran.stdout
    assert '"ended":false' not in ran.stdout


@pytest.mark.usefixtures("mesh_eager", "empty_redis", "ollama")
def test_the_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Every `python` block, in order, in one namespace."""
    namespace: dict[str, object] = {"__name__": "readme_tasks"}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), namespace)
    assert len(namespace["vectors"]) == 2
    assert "ai-batch" in namespace["waiting"]
    assert capsys.readouterr().out == "You said: How do I pay?"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_named_exist(page: Path) -> None:
    known = {env_name(field) for field in Settings.model_fields} | SET_FOR_SCRIPTS
    assert set(re.findall(r"\bGPU_MESH_[A-Z_]+\b", page.read_text(encoding="utf-8"))) <= known


def test_make_targets_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z]+)`?", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
