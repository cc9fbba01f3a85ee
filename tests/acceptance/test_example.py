"""The example application, from an installed wheel: nothing of the source tree but `examples/` is used."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import httpx
import pytest
from waiting import wait_for

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with our wheel, and with what it needs borrowed from the environment of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    # Built from a copy: setuptools leaves its traces in the tree it builds.
    copied = ["pyproject.toml", "README.md", "LICENSE", "beat_schedule.py", "gpu_mesh", "workers"]
    source.mkdir()
    for name in copied:
        subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    site = Path(
        subprocess.run(
            [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    )
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(site)], check=True)
    # A plain path in a .pth comes after the environment's own packages, and pulls in no editable install.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(EXAMPLES),
        "GPU_MESH_STATE_DIR": str(folder / "state"),
        "GPU_MESH_INCLUDE": "support_desk.tasks",
        "GPU_MESH_DEVICES": "cpu",
        "NODE_NAME": "example",
    }


def test_the_wheel_is_used(python: Path, tmp_path: Path) -> None:
    """The installed package, its Lua files included; not the source tree."""
    code = (
        "import gpu_mesh, workers, beat_schedule; from gpu_mesh.store.scripts import source; "
        "source('register'); print(gpu_mesh.__file__)"
    )
    ran = subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, env=environment(tmp_path), cwd=tmp_path, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert Path(ran.stdout.strip()).is_relative_to(python.parents[1])


def test_the_example_application_works(python: Path, tmp_path: Path, free_port: int) -> None:
    """Its own tasks, called with `.delay()` from another process, run on the mesh's workers and come back."""
    env = environment(tmp_path) | {"GPU_MESH_API_PORT": str(free_port)}
    log = tmp_path / "log"
    with log.open("wb") as out:
        up = subprocess.Popen(
            [str(python), "-m", "gpu_mesh", "up"], stdout=out, stderr=subprocess.STDOUT, env=env, cwd=tmp_path
        )
    try:
        wait_for(lambda: "cpu0@example ready." in log.read_text() or up.poll() is not None, str(log), 60)
        assert up.poll() is None, log.read_text()
        ran = subprocess.run(
            [str(python), "-m", "support_desk"],
            capture_output=True,
            text=True,
            env=env,
            cwd=tmp_path,
            timeout=90,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        assert "Under Account, Security, Change password." in ran.stdout
        assert "4 answers embedded" in ran.stdout
        assert "Northwind" in ran.stdout
        done = httpx.get(f"http://127.0.0.1:{free_port}/tasks/completed").json()["tasks"]
        assert any(task["name"].startswith("support_desk.") for task in done.values())
    finally:
        up.terminate()
        up.wait(40)
