"""Where scripts are looked for, where they keep files, and what their environment holds (SPEC T, P1)."""

from __future__ import annotations

from pathlib import Path

import pytest
from mesh_scripts import SECRETS, write_scripts

from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.errors import InvalidSetting, ScriptRefused
from gpu_mesh.services.scripts.environment import environment
from gpu_mesh.services.scripts.files import checkpoint_folder, drop_checkpoint_folder, find
from gpu_mesh.services.scripts.process import argv_of
from gpu_mesh.settings import Settings, load


def test_found(tmp_path: Path):
    """T: by name; also where the folder itself is reached by a link."""
    scripts = write_scripts(tmp_path)
    (tmp_path / "link").symlink_to(scripts)
    assert find(scripts, "echo.py") == find(tmp_path / "link", "leads_in.py") == scripts.resolve() / "echo.py"
    assert argv_of(find(scripts, "shell")) == [str(scripts / "shell")]
    assert argv_of(find(scripts, "echo.py"))[1:] == ["-P", str(scripts / "echo.py")]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("eco.py", "did you mean echo.py"),
        ("zzzz", "there are: broken, echo.py"),
        ("leads_out.py", "leaves the scripts folder"),
        ("folder.py", "no plain file"),
        ("not_executable.sh", "chmod"),
        ("../outside.py", "no path"),
    ],
)
def test_refusals_say_why(tmp_path: Path, name: str, remedy: str):
    """STYLE 18."""
    with pytest.raises(ScriptRefused, match=remedy):
        find(write_scripts(tmp_path), name)


@pytest.mark.parametrize("folder", [None, "none", "file"])
def test_no_folder(tmp_path: Path, folder: str | None):
    """STYLE 18: unset, missing, no folder: the setting is named."""
    (tmp_path / "file").touch()
    with pytest.raises(InvalidSetting, match="GPU_MESH_SCRIPTS_DIR"):
        find(tmp_path / folder if folder else None, "echo.py")


def test_checkpoint_folders(tmp_path: Path):
    """F2: one per task, the same at each run; no id leads out of the folder."""
    current = Settings(_env_file=None, state_dir=tmp_path, checkpoint_dir=tmp_path / "shared" / "deep")
    found = {task: checkpoint_folder(current, task) for task in ("a-1", "../../b", "/c", "..", "", "\0", "\ud800")}
    assert {path.parent for path in found.values()} == {tmp_path / "shared" / "deep"}
    assert len(set(found.values())) == len(found)
    assert found["a-1"].name == "a-1"
    assert found["a-1"].stat().st_mode & 0o777 == 0o700
    assert checkpoint_folder(current, "/c") == found["/c"]
    drop_checkpoint_folder(current, "/c")
    assert not found["/c"].exists()
    drop_checkpoint_folder(current, "/c")


def test_a_checkpoint_folder_that_cannot_be_made(tmp_path: Path):
    """STYLE 8: named by its setting."""
    (tmp_path / "file").touch()
    current = Settings(_env_file=None, state_dir=tmp_path, checkpoint_dir=tmp_path / "file")
    with pytest.raises(InvalidSetting, match="GPU_MESH_CHECKPOINT_DIR"):
        checkpoint_folder(current, "a")


def test_environment():
    """T: what is named, and nothing else; CUDA sees the devices of the run and no other."""
    source = {
        **SECRETS,
        "PATH": "/bin",
        "LC_ALL": "C",
        "GPU_MESH_BROKER_URL": "redis://:pw@h",
        "CUDA_VISIBLE_DEVICES": "9",
    }
    devices = [
        Device(name=f"gpu{i}", node="n", kind=DeviceKind.NVIDIA, gpu_type="A40", memory_gb=40, uuid=f"GPU-{i}")
        for i in range(2)
    ]
    found = environment(source, also=["SHOP_SITE"], devices=devices, hints={"MESH_NODE": "n", "MESH_DEVICE": None})
    assert found == {
        "PATH": "/bin",
        "LC_ALL": "C",
        "SHOP_SITE": SECRETS["SHOP_SITE"],
        "PYTHONUNBUFFERED": "1",
        "CUDA_VISIBLE_DEVICES": "GPU-0,GPU-1",
        "MESH_NODE": "n",
    }
    assert environment(source, also=(), devices=(), hints={})["CUDA_VISIBLE_DEVICES"] == ""


def test_the_tasks_id_is_no_unknown_setting(monkeypatch: pytest.MonkeyPatch):
    """T: a script may use the mesh itself."""
    monkeypatch.setenv("GPU_MESH_TASK_ID", "a-1")
    load(dotenv=None)
