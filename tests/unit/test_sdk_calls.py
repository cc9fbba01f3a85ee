"""`Call`: what `submit` is given, checked before anything is sent (SPEC A6, Q4, Q7, P1)."""

from __future__ import annotations

import asyncio
import inspect
import math
from datetime import UTC, datetime

import celery
import pytest
import sample_tasks

from gpu_mesh import Call, Job, Mesh, submit, submit_many
from gpu_mesh.errors import InvalidSetting, InvalidTask, PayloadTooLarge, UnknownQueue, UnknownTaskType
from gpu_mesh.sdk.options import Options, check_options
from gpu_mesh.tasks.embeddings import embeddings
from gpu_mesh.tasks.options import MESH_OPTIONS
from gpu_mesh.testing import mesh_eager

__all__ = ["mesh_eager"]


def test_the_options_are_all_the_mesh_has():
    """P1, Q4: nothing that a task's decorator takes is missing."""
    assert Options.__annotations__.keys() >= MESH_OPTIONS


def test_submit_and_mesh_take_the_same():
    """STYLE, httpx: one surface."""
    of_mesh = list(inspect.signature(Mesh.submit).parameters.values())[1:]
    assert of_mesh == list(inspect.signature(submit).parameters.values())


@pytest.mark.parametrize(
    ("task", "args", "options", "field", "said"),
    [
        ("embeddings", [["a"]], {"priority": 11}, "priority", "0"),
        ("embeddings", [["a"]], {"priority": True}, "priority", "0"),
        ("embeddings", [["a"]], {"memory_gb": -1}, "memory_gb", "gigabytes"),
        ("embeddings", [["a"]], {"memory_gb": math.nan}, "memory_gb", "gigabytes"),
        ("embeddings", [["a"]], {"business": "sales"}, "business", "revenue"),
        ("embeddings", [["a"]], {"memorygb": 3}, "memorygb", "did you mean memory_gb?"),
        ("embeddings", [["a"]], {"texts": ["b"]}, "texts", "kwargs={…}"),
        ("embeddings", [["a"]], {"countdown": -1}, "countdown", "seconds"),
        ("embeddings", [["a"]], {"countdown": "5"}, "countdown", "seconds"),
        ("embeddings", [["a"]], {"expires": math.inf}, "expires", "seconds"),
        ("embeddings", [["a"]], {"eta": 5}, "eta", "a datetime"),
        ("embeddings", [["a"]], {"eta": datetime.now(UTC), "countdown": 5}, "countdown", "not both"),
        ("embeddings", [["a"]], {"task_id": ""}, "task_id", "1 to"),
        ("embeddings", [["a"]], {"task_id": "a\nb"}, "task_id", "printable"),
        ("embeddings", [["a"]], {"preemptible": "often"}, "preemptible", "restart"),
        ("embeddings", [["a"]], {"labels": ["owned"]}, "labels", "mapping"),
        ("embeddings", [["a"]], {"kwargs": [1]}, "kwargs", "by name"),
        ("embeddings", [["a"]], {"kwargs": {1: 2}}, "kwargs", "by name"),
        ("embeddings", [], {}, "args", "embeddings(texts"),
        ("embeddings", [["a"]], {"kwargs": {"txt": 1}}, "args", "embeddings(texts"),
        ("embeddings", [object()], {}, "args", "JSON"),
        ("some.where.task", [{1, 2, object()}], {}, "args", "JSON"),
        ("some.where.task", [], {"priority": -1}, "priority", "0"),
        ("llm_inference", [], {}, "prompt", "give a prompt"),
        ("llm_inference", ["hi"], {"kwargs": {"model": "a"}, "model": "b"}, "model", "name it once"),
        (None, [], {}, "task", "name"),
        ("", [], {}, "task", "name"),
        (embeddings.s(["a"]), [], {}, "task", "name"),
    ],
)
def test_a_wrong_call_is_refused(task: object, args: list[object], options: dict[str, object], field: str, said: str):
    """STYLE 18: before anything is sent, by field, value and remedy."""
    with pytest.raises(InvalidTask) as refused:
        Call(task, *args, **options)
    assert refused.value.field == field
    assert said in str(refused.value)


def test_queues_and_sizes():
    """Q7, S3: the errors that `delay` raises."""
    with pytest.raises(UnknownQueue):
        Call("embeddings", ["a"], queue="nowhere")
    with pytest.raises(PayloadTooLarge):
        Call("embeddings", ["a" * 60_000_000])


@pytest.mark.parametrize("name", ["embedings", "celery.chord_unlock", "celery.no_such", "sample_tasks.ad"])
def test_an_unknown_name_is_refused(name: str):
    """No such type; Celery's own; a misspelt task of a module that is loaded here."""
    with pytest.raises(UnknownTaskType) as refused:
        Call(name, 1, 2)
    assert refused.value.field == "task"
    assert ("embeddings" in str(refused.value)) or ("sample_tasks.add" in str(refused.value))


def test_a_task_of_another_app_is_refused():
    """It would go to that one's broker."""
    other = celery.Celery("other", set_as_current=False, broker="memory://")

    @other.task(name="other.task")
    def task() -> None: ...

    with pytest.raises(InvalidTask, match="a task of this mesh"):
        Call(task)


def test_known_by_name_and_by_task():
    """The same either way, and each has an id of its own."""
    one, two = Call(sample_tasks.add, 1, 2), Call("sample_tasks.add", 1, 2)
    assert one.id != two.id
    assert Call("elsewhere.tasks.any", 1, priority=9, task_id="mine").id == "mine"


def test_none_is_left_out():
    """An application hands its own optional values through."""
    assert check_options(dict.fromkeys(Options.__annotations__)) == {}


def test_without_a_mesh(mesh_eager: object):
    """`mesh_eager`: jobs end at once, in the caller; also those of submit_many."""
    job = submit(sample_tasks.add, 2, 3, business="revenue")
    assert (job.result(timeout=0), job.state, job.done) == (5, "SUCCESS", True)
    jobs = submit_many([Call("sample_tasks.total", [1, 2]), Call("sample_tasks.add", 1, 1)])
    assert [one.result() for one in jobs] == [3, 2]

    async def waited() -> object:
        return await submit("sample_tasks.add", 1, kwargs={"y": 6})

    assert asyncio.run(waited()) == 7


def test_submit_many_takes_calls():
    """A wrong element keeps all from being sent; so does one that comes twice."""
    call = Call("sample_tasks.add", 1, 1)
    with pytest.raises(InvalidTask, match="Call"):
        submit_many([call, ("sample_tasks.add", 1, 1)])
    with pytest.raises(InvalidTask, match="each once"):
        submit_many([call, call])
    assert submit_many([]) == []


@pytest.mark.parametrize("task", [None, "", 5, embeddings])
def test_a_job_is_of_an_id(task: object):
    """STYLE 18."""
    with pytest.raises(InvalidTask) as refused:
        Job(task)
    assert refused.value.field == "task_id"


def test_jobs_compare_by_id():
    """They are put into sets, and logged."""
    assert {Job("a"), Job("a"), Job("b")} == {Job("a"), Job("b")}
    assert repr(Job("a")) == "Job('a')"


def test_a_mesh_takes_its_settings_from_the_environment():
    """A Celery app reads them once: what would be ignored is refused."""
    with pytest.raises(InvalidSetting, match="GPU_MESH_BROKER_URL in the environment"):
        Mesh(broker_url="redis://elsewhere")
    with pytest.raises(InvalidSetting, match=r"docs/settings\.md"):
        Mesh(broker="redis://elsewhere")
