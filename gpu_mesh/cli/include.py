"""Can an application's task modules, `GPU_MESH_INCLUDE`, be loaded? Asked before anything is started or sent."""

from __future__ import annotations

import json
import subprocess
import sys

from gpu_mesh.celery import app
from gpu_mesh.errors import InvalidSetting
from gpu_mesh.settings import Settings, env_name, settings

__all__ = ["check_include", "check_include_apart"]

#: How long the modules may take to load, s: those that bring a machine-learning library take many.
LOAD_TIMEOUT_S = 120.0
#: What the process apart runs.
CODE = "from gpu_mesh.cli.include import main; main()"


def check_include(current: Settings) -> None:
    """Import the modules as a worker does, the working folder included. Raises InvalidSetting naming the first that
    fails."""
    for name in current.include:
        try:
            app.loader.import_from_cwd(name)
        except Exception as exc:  # whatever an application's module raises
            raise InvalidSetting(env_name("include"), name, _remedy(name, exc)) from exc


def check_include_apart(current: Settings) -> None:
    """The same in a process of its own: a long-lived supervisor must not hold what the modules load.

    A module that takes longer than `LOAD_TIMEOUT_S` is left for the workers to load.
    """
    if not current.include:
        return
    try:
        ran = subprocess.run(
            [sys.executable, "-P", "-c", CODE], capture_output=True, text=True, timeout=LOAD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return
    if ran.returncode:
        said = (ran.stdout or ran.stderr).splitlines() or [f"ends Python with exit code {ran.returncode}"]
        try:
            name, remedy = json.loads(said[-1])
        except ValueError:  # the module ended the process itself
            name, remedy = ",".join(current.include), f"fails when it is imported ({said[-1]}): mend the module"
        raise InvalidSetting(env_name("include"), name, remedy)


def main() -> None:
    """What `check_include_apart` runs: name and remedy as JSON, and exit code 1, where a module fails."""
    try:
        check_include(settings())
    except InvalidSetting as exc:
        sys.stdout.write(json.dumps([exc.value, exc.remedy]) + "\n")
        sys.exit(1)


def _remedy(name: str, exc: Exception) -> str:
    if isinstance(exc, ModuleNotFoundError) and exc.name and f"{name}.".startswith(f"{exc.name}."):
        return "no such module: name modules as Python imports them, from the working folder or PYTHONPATH"
    said = (str(exc).splitlines() or [""])[0]
    return f"fails when it is imported ({type(exc).__name__}: {said}): mend the module"
