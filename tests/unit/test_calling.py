"""What may be sent, and with which arguments (SPEC A1)."""

from __future__ import annotations

import pytest

from gpu_mesh.celery import app
from gpu_mesh.errors import InvalidTask, UnknownTaskType
from gpu_mesh.tasks.calling import check_call, known_task, known_tasks


def test_built_in_types_come_first_and_own_work_is_no_type() -> None:
    names = known_tasks(app)
    assert names[:5] == ["custom", "embeddings", "llm_inference", "test", "training"]
    assert "sample_tasks.add" in names
    assert not [name for name in names if name.startswith(("celery.", "mesh."))]


@pytest.mark.parametrize("name", ["nothing", "celery.backend_cleanup", "mesh.health", "", "test "])
def test_unknown_task_names_what_there_is(name: str) -> None:
    with pytest.raises(UnknownTaskType, match=r"task_type=.*embeddings, llm_inference, test, training"):
        known_task(app, name, field="task_type")


def test_arguments_must_be_those_of_the_task() -> None:
    task = known_task(app, "test")
    check_call(task, [], {})
    check_call(task, ["once"], {})
    with pytest.raises(InvalidTask, match="secs") as caught:
        check_call(task, [], {"secs": 3})
    assert caught.value.field == "args"
    with pytest.raises(InvalidTask, match="echo"):
        check_call(task, [1, 2], {}, field="ARGS")
