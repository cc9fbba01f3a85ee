"""`gpu-mesh demo`: the newcomer's first command."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

import psutil
import pytest
from ollama_stub import OllamaStub
from processes import gpu_mesh, run
from waiting import wait_for

from gpu_mesh.cli.demo import QUESTION, configure
from gpu_mesh.settings import settings


def folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("gpu-mesh-demo-*"))


def test_the_demo_does_real_work_and_leaves_nothing() -> None:
    """Exit code 0 only if all came back; every queue, device and search is in the report; no process or folder left."""
    ours = psutil.Process().children
    before = {child.pid for child in ours(recursive=True)}
    there = folders()
    ran = run("demo", env={"COLUMNS": "160"}, timeout_s=110)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    counts = {line.split()[0]: int(line.split()[1]) for line in ran.stdout.splitlines() if re.match(r"\S+ +\d+ ", line)}
    assert counts["revenue"] == 1
    assert counts["ai-realtime"] == 5
    assert counts["ai-batch"] > 20
    assert counts["cpu0@demo"] + counts["cpu1@demo"] == counts["revenue"] + counts["ai-realtime"] + counts["ai-batch"]
    assert len(re.findall(r"\? +0\.\d\d ", ran.stdout)) == 5
    assert re.search(r"The search waited 0\.\d+ s: 1 of 2 jobs made room", ran.stdout)
    runs = re.findall(r"^(\d+) topics +(\d) +cpu[01]@demo +(\d+)–(\d+) *$", ran.stdout, re.MULTILINE)
    assert len(runs) == 3
    # One of the two was begun again, behind what it had done.
    (again,) = [run for run in runs if run[1] == "2"]
    (first,) = [run for run in runs if run[:2] == (again[0], "1")]
    assert int(again[2]) == int(first[3]) + 1
    assert "Install Ollama" in ran.stdout
    assert {child.pid for child in ours(recursive=True)} <= before
    assert folders() <= there


def test_the_demo_asks_a_model_where_there_is_one() -> None:
    """T: an engine that is found by itself answers; its embedding model is left alone."""
    with OllamaStub() as stub:
        ran = run("demo", env={"COLUMNS": "160", "OLLAMA_HOST": stub.url, "GPU_MESH_ENGINES": ""}, timeout_s=110)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"You said: {QUESTION}" in ran.stdout
    assert re.search(r"\n\S+ on cpu[01]@demo, \d+\.\d s in all", ran.stdout)
    assert "/api/embed" not in {path for path, _ in stub.requests}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_demo_that_is_killed_leaves_no_process(tmp_path: Path, number: int) -> None:
    """N1: killed while its Redis and workers run; unless by SIGKILL it removes its folder too."""
    before = folders()
    with gpu_mesh("demo", log=tmp_path / "log", ready="Starting Redis") as demo:
        this = psutil.Process(demo.pid)
        wait_for(lambda: len(this.children(recursive=True)) > 4, "the mesh's processes", 60)
        ours = this.children(recursive=True)
        (folder,) = folders() - before
        demo.send_signal(number)
        demo.wait(60)
        wait_for(lambda: not any(map(lives, ours)), "the end of the demo's processes", 60)
    if number == signal.SIGKILL:
        shutil.rmtree(folder)
    else:
        assert demo.returncode == 128 + number
    assert folders() <= before


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_demo_keeps_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """N1: whatever broker, name or label the environment holds; hardware stays as the user says."""
    theirs = {
        "GPU_MESH_BROKER_URL": "redis://production",
        "gpu_mesh_result_url": "redis://production",
        "GPU_MESH_LABELS": "trust=owned",
        "NODE_NAME": "production",
        "GPU_MESH_NODE_NAME": "production",
        "GPU_MESH_EMBED_CHUNK": "9",
        "GPU_MESH_DEVICES": "fake:A40:48",
    }
    with monkeypatch.context() as patch:
        for name, value in {**dict(os.environ), **theirs}.items():
            patch.setenv(name, value)
        (device,) = configure(tmp_path, None)
        found = settings()
    settings.cache_clear()
    assert (found.broker_url, found.result_url, found.labels, found.state_dir) == (None, None, {}, tmp_path)
    assert (device.gpu_type, device.worker) == ("A40", "gpu0@demo")


def test_the_demo_reads_no_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """N1: a `.env` of the working folder names the production broker, and nonsense: neither matters."""
    (tmp_path / ".env").write_text("GPU_MESH_BROKER_URL=redis://127.0.0.1:1\nGPU_MESH_NO_SUCH=1\n")
    monkeypatch.chdir(tmp_path)
    ran = run("demo", "--devices", "nonsense")
    assert ran.returncode == 78
    assert "GPU_MESH_DEVICES='nonsense'" in ran.stderr
