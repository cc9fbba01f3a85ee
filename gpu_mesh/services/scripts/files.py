"""Which file a script's name stands for, and where it may keep things. A name never leads out of the folder."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import shutil
from pathlib import Path

from gpu_mesh.errors import InvalidSetting, ScriptRefused
from gpu_mesh.settings import Settings, env_name

__all__ = ["checkpoint_folder", "drop_checkpoint_folder", "find", "run_folder"]

#: A plain name: nothing hidden, no separator, no NUL, no option.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
#: A task's id as a folder's name; any other one is hashed.
_TASK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
#: What is run by this worker's own interpreter, executable or not.
PYTHON = ".py"
#: Names that a refusal shows at most.
_SHOWN = 10
_FIELD = "script"
_ALLOWED = "the name of a file in the scripts folder: letters, digits, '.', '_', '-'; no path, nothing hidden"


def find(folder: Path | None, name: object) -> Path:
    """The file of that name in the scripts folder, links resolved.

    Raises InvalidSetting where the folder is unset or cannot be read, ScriptRefused for a name that is none, that
    nothing has, that leads elsewhere, or that names nothing that can be run.
    """
    root = _root(folder)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ScriptRefused(_FIELD, name, _ALLOWED)
    try:
        path = (root / name).resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: links in a circle, before Python 3.13
        raise ScriptRefused(_FIELD, name, _others(root, name)) from None
    if not path.is_relative_to(root):
        raise ScriptRefused(_FIELD, name, "a link that leaves the scripts folder: put the file itself there")
    if not path.is_file():
        raise ScriptRefused(_FIELD, name, "no plain file: scripts are files, directly in the scripts folder")
    if not _runs(path):
        raise ScriptRefused(_FIELD, name, "neither executable nor named .py: chmod +x it on this node")
    return path


def run_folder(current: Settings) -> Path:
    """Where runs have their working folders; made where it is missing. Raises InvalidSetting."""
    return _make(current.state_dir / "runs", "state_dir")


def checkpoint_folder(current: Settings, task_id: str) -> Path:
    """The folder that a task's runs share; made where it is missing. Raises InvalidSetting."""
    if current.checkpoint_dir is None:
        return _make(_checkpoints(current, task_id), "state_dir")
    return _make(_checkpoints(current, task_id), "checkpoint_dir")


def drop_checkpoint_folder(current: Settings, task_id: str) -> None:
    """Delete it: the task has succeeded. What cannot be deleted stays."""
    shutil.rmtree(_checkpoints(current, task_id), ignore_errors=True)


def _checkpoints(current: Settings, task_id: str) -> Path:
    name = task_id if _TASK_ID.fullmatch(task_id) else hashlib.sha256(task_id.encode(errors="replace")).hexdigest()
    return (current.checkpoint_dir or current.state_dir / "checkpoints").absolute() / name


def _make(folder: Path, setting: str) -> Path:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as exc:
        raise InvalidSetting(env_name(setting), str(folder), f"a folder this worker may write to ({exc})") from None
    return folder.resolve()


def _root(folder: Path | None) -> Path:
    setting = env_name("scripts_dir")
    if folder is None:
        raise InvalidSetting(setting, "", "unset on this worker: name the folder of the scripts that it may run")
    try:
        root = folder.resolve(strict=True)
        next(root.iterdir(), None)  # a look whether we may, also where it is empty
    except (OSError, RuntimeError) as exc:
        raise InvalidSetting(setting, str(folder), f"a folder of scripts that this worker may read ({exc})") from None
    return root


def _runs(path: Path) -> bool:
    return os.access(path, os.R_OK) if path.suffix == PYTHON else os.access(path, os.X_OK)


def _others(root: Path, name: str) -> str:
    files = (path for path in root.iterdir() if _NAME.fullmatch(path.name) and path.is_file())
    found = sorted(path.name for path in files if _runs(path))
    if near := difflib.get_close_matches(name, found, n=1):
        return f"no such script on this node; did you mean {near[0]}?"
    listed = ", ".join(found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
    return f"no such script on this node; there are: {listed or 'none'}"
