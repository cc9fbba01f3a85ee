"""For an application's own tests: run its tasks without a mesh.

# conftest.py
pytest_plugins = ["gpu_mesh.testing"]

# test_tasks.py
def test_answer(mesh_eager):
    assert answer.delay("…").get() == "…"
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gpu_mesh.celery import MeshCelery, app

__all__ = ["mesh_eager"]


@pytest.fixture
def mesh_eager() -> Iterator[MeshCelery]:
    """Tasks run in the caller, at once; options are checked as ever, and a task's error is raised at `.delay()`.

    Needs neither Redis nor a worker. Gives the app.
    """
    before = {name: app.conf[name] for name in ("task_always_eager", "task_eager_propagates")}
    app.conf.update(task_always_eager=True, task_eager_propagates=True)
    try:
        yield app
    finally:
        app.conf.update(before)
