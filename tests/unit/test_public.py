"""The public surface, and what every module owes its reader (STYLE, DESIGN §2)."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from operator import attrgetter
from pathlib import Path

import pytest

import beat_schedule
import gpu_mesh
import workers
from gpu_mesh.domain.queues import CONTROL_QUEUE

ROOT = Path(gpu_mesh.__file__).parent.parent
PACKAGES = [Path(package.__file__).parent for package in (gpu_mesh, workers)]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in [*sorted(file for folder in PACKAGES for file in folder.rglob("*.py")), ROOT / "beat_schedule.py"]
}
#: What may import the app: its facade and what lies above it.
ABOVE_THE_APP = ("gpu_mesh", "gpu_mesh.cli", "gpu_mesh.testing", "gpu_mesh.__main__", "workers", "beat_schedule")


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text())


def public_names(module: str) -> list[str] | None:
    """What the module's `__all__` says."""
    for node in tree(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return None


def definitions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Public functions, classes and methods, with their qualified names; a protocol speaks for its methods."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not child.name.startswith("_"):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef) and "Protocol" not in map(ast.unparse, child.bases):
                yield from definitions(child, f"{prefix}{child.name}.")


def imported(module: str) -> set[str]:
    """Modules and names that the module imports, wherever in it."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_there_are_modules_to_look_at():
    """STYLE: the tests below see the whole of both packages."""
    assert {"gpu_mesh", "gpu_mesh.domain.queues", "gpu_mesh.cli.root", "workers.gpu", "beat_schedule"} <= FILES.keys()


def test_the_public_names():
    """STYLE, httpx: importable, and all that an application needs."""
    for name in gpu_mesh.__all__:
        assert getattr(gpu_mesh, name) is not None
    needed = {"app", "GpuTask", "MeshError", "Piece", "Preempted", "Requirements", "fits", "settings", "stream"}
    assert needed <= set(gpu_mesh.__all__)
    assert re.fullmatch(r"\d+\.\d+\.\d+", gpu_mesh.__version__)


@pytest.mark.parametrize("module", [name for name in FILES if public_names(name) is not None])
def test_public_names_of_a_module_are_sorted_and_true(module: str):
    """STYLE: as ruff sorts them (constants, classes, the rest); each is there, none twice."""
    names = public_names(module)

    def rank(name: str) -> int:
        if name.strip("_").isupper():
            return 0
        return 1 if name[:1].isupper() else 2

    assert names == sorted(set(names), key=lambda name: (rank(name), name))
    loaded = importlib.import_module(module)
    for name in names:
        assert hasattr(loaded, name), f"{module}.{name}"


def test_every_module_that_defines_something_public_says_so():
    """STYLE: `__all__` in each; empty packages and entry points apart."""
    for module in FILES:
        if any(definitions(tree(module))) and not module.endswith("__main__"):
            assert public_names(module) is not None, module


@pytest.mark.parametrize("module", FILES)
def test_every_module_is_documented(module: str):
    """STYLE 12: modules, and public functions, classes and methods; a method may inherit its base's words."""
    assert ast.get_docstring(tree(module))
    for name, node in definitions(tree(module)):
        if not ast.get_docstring(node):
            assert "." in name, name
            assert inspect.getdoc(attrgetter(name)(importlib.import_module(module))), name


def test_only_what_lies_above_imports_the_app():
    """DESIGN §2: tasks use `shared_task`; an application's app may be another."""
    for module in FILES:
        if module not in ABOVE_THE_APP and not module.startswith(
            ("gpu_mesh.api.", "gpu_mesh.cli.", "gpu_mesh.sdk.", "workers.")
        ):
            assert not imported(module) & {"gpu_mesh.celery", "gpu_mesh.app", "celery.current_app"}, module
    assert "gpu_mesh.celery" in imported("gpu_mesh")


def test_the_schedule_names_tasks_that_exist():
    """DESIGN §2: name → task, when, queue; an entry that Celery cannot send would fail in silence."""
    tasks = gpu_mesh.app.tasks
    assert beat_schedule.SCHEDULE
    for name, entry in beat_schedule.SCHEDULE.items():
        assert entry["task"] in tasks, name
        assert entry["schedule"], name
        assert entry["options"]["queue"] == CONTROL_QUEUE, name
        assert entry.keys() <= {"task", "schedule", "args", "kwargs", "options", "relative"}, name


@pytest.mark.parametrize("name", ["custom", "embeddings", "llm_inference", "test", "training"])
def test_the_built_in_task_types_are_registered(name: str):
    """SPEC T: importing the package is enough, and they are the mesh's own kind."""
    assert isinstance(gpu_mesh.app.tasks[name], gpu_mesh.GpuTask)
