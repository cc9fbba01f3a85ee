"""The Dockerfile without an engine: what it copies is there and reaches the build, and how it runs."""

from __future__ import annotations

import re
import tomllib

import pytest
from compose_file import services
from docker_file import ROOT, Instruction, instructions, is_ignored

FOUND = instructions((ROOT / "Dockerfile").read_text(encoding="utf-8"))
IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
LAST = max(found.stage for found in FOUND)


def of(word: str, stage: int | None = None) -> list[Instruction]:
    return [found for found in FOUND if found.word == word and stage in (None, found.stage)]


def copied() -> list[str]:
    """Sources of COPY in our own tree."""
    rests = [found.rest.split() for found in of("COPY") if "--from" not in found.rest]
    return [source for *sources, _ in rests for source in sources]


@pytest.mark.parametrize("source", copied())
def test_what_is_copied_is_there(source: str) -> None:
    assert (ROOT / source).exists()
    assert not is_ignored(source, IGNORED)


def test_the_whole_package_is_copied() -> None:
    """What the wheel is made of: packages, top-level modules, and the files that pyproject.toml names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    modules = {f"{name}.py" for name in project["tool"]["setuptools"]["py-modules"]}
    about = {project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"}
    assert packages | modules | about <= set(copied())


@pytest.mark.parametrize("path", [".env", ".git/config", ".venv/bin/python", "tests/conftest.py", "docker-compose.yml"])
def test_what_must_not_reach_the_image(path: str) -> None:
    assert is_ignored(path, IGNORED)


def test_inside_a_package_all_but_the_caches_reach_the_build() -> None:
    assert not is_ignored("gpu_mesh/store/lua/claim.lua", IGNORED)
    assert is_ignored("gpu_mesh/store/__pycache__/keys.cpython-311.pyc", IGNORED)


def test_python_is_pinned_to_a_minor_version() -> None:
    images = [found.rest.split()[0] for found in of("FROM")]
    (image,) = set(images)
    version = re.fullmatch(r"python:(3\.\d+)-slim", image)
    assert version is not None, image
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert tuple(map(int, version[1].split("."))) >= tuple(
        map(int, project["requires-python"].removeprefix(">=").split("."))
    )


def test_it_does_not_run_as_root() -> None:
    user = of("USER", LAST)[-1].rest
    assert int(user) > 0
    assert any(f"--uid {user} " in run.rest for run in of("RUN", LAST))


def test_dependencies_have_a_layer_of_their_own() -> None:
    """A change of our own code must not install them anew."""
    words = [(found.word, found.rest) for found in FOUND if found.stage == 0]
    pins = next(index for index, (word, rest) in enumerate(words) if word == "COPY" and "constraints.txt" in rest)
    install = next(index for index, (word, rest) in enumerate(words) if word == "RUN" and "--requirement" in rest)
    code = next(index for index, (word, rest) in enumerate(words) if word == "COPY" and "gpu_mesh" in rest)
    assert pins < install < code
    assert all("--constraint constraints.txt" in rest for word, rest in words if "pip install" in rest)


def test_signals_reach_the_program() -> None:
    """In exec form no shell stands between; compose runs the same."""
    (command,) = of("CMD", LAST)
    assert command.exec_form == services({"NODE_NAME": "box", "REDIS_PASSWORD": "sesame"})["worker"].command
    assert not of("ENTRYPOINT")


def test_folders_agree_with_compose() -> None:
    """The state's folder belongs to the image's user; the application's is where programs start."""
    worker = services({"NODE_NAME": "box", "REDIS_PASSWORD": "sesame"})["worker"]
    made = " ".join(run.rest for run in of("RUN", LAST))
    assert all(target in made for target in worker.targets)
    assert of("WORKDIR", LAST)[-1].rest == "/app"
    (env,) = of("ENV", LAST)
    assert f"GPU_MESH_STATE_DIR={worker.environment['GPU_MESH_STATE_DIR']}" in env.rest
    assert re.search(rf"--owner=gpu-mesh [^&]*{worker.environment['GPU_MESH_STATE_DIR']}", made)
