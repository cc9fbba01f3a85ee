"""The `embeddings` task type over two real workers (SPEC T; issue 2 §9)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from canvas_tasks import at
from celery import chord, group, states
from celery.exceptions import ChordError
from celery.result import AsyncResult
from sample_tasks import hold
from two_gpus import A40, RTX_4090, lists, purge, two_gpus
from waiting import wait_for

from gpu_mesh import app
from gpu_mesh.engines import vectors
from gpu_mesh.engines.local import LocalEngine
from gpu_mesh.errors import InvalidTask, ModelNotFound
from gpu_mesh.services import lookup
from gpu_mesh.settings import settings
from gpu_mesh.tasks.base import PROGRESS
from gpu_mesh.tasks.embeddings import embed_part, embeddings

EXAMPLES = Path(__file__).parents[2] / "examples"
#: How long any of these may take, s.
LIMIT_S = 30
#: Enough for eight parts of the default 256 texts.
MANY = 2000


@pytest.fixture(scope="module")
def workers(empty_redis: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with two_gpus(tmp_path_factory.mktemp("embeddings")) as log:
        yield log


@pytest.fixture(autouse=True)
def _clean(workers: Path) -> Iterator[None]:
    yield
    purge()


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    return LocalEngine()


def texts(count: int) -> list[str]:
    """That many texts, no two alike."""
    return [f"text {number} about GPUs and number {number * 7}" for number in range(count)]


def test_small_list(engine: LocalEngine):
    """T: a list of texts gives a vector each, those of the engine."""
    few = ["a cat", "", "ein Hund", "naïve café ✓"]
    found = embeddings.delay(few).get(LIMIT_S)
    direct = engine.embed(few)
    assert found["vectors"] == vectors.to_lists(direct.vectors)
    assert (found["model"], found["dimensions"], found["count"]) == (direct.model, 256, 4)


def test_empty_list():
    """No texts give no vectors, in either encoding."""
    assert embeddings.delay([]).get(LIMIT_S)["vectors"] == []
    assert embeddings.delay([], encoding="base64").get(LIMIT_S)["vectors"] == ""


def test_many_texts_keep_their_order(engine: LocalEngine):
    """Issue 2 §9: thousands are split over all devices, progress is reported, order is kept, under the caller's id."""
    seen: list[dict[str, int]] = []
    many = texts(MANY)
    sent = embeddings.apply_async((many,), {"encoding": "base64"}, business="customer", priority=9)

    def ended() -> bool:
        # One read: state and info of two could be of two moments.
        meta = app.backend.get_task_meta(sent.id)
        if meta["status"] == PROGRESS and meta["result"] not in seen:
            seen.append(meta["result"])
        return meta["status"] in states.READY_STATES

    wait_for(ended, "the vectors of many texts", LIMIT_S)
    found = sent.get()
    assert found["count"] == MANY
    # Bit for bit what one process gives, so each vector is at its text's place.
    assert found["vectors"] == vectors.encode(engine.embed(many).vectors)
    assert seen
    assert all(info["total"] == MANY and 0 < info["done"] < MANY for info in seen)

    def parts() -> list[lookup.TaskView]:
        return [task for task in lookup.finished_tasks(settings(), 100) if task.name == "embeddings.part"]

    wait_for(lambda: len(parts()) == 8, "eight parts in the journal")
    assert {part.worker for part in parts()} == {RTX_4090, A40}
    # Queue and priority of the parts are those of the whole.
    assert {(part.queue, part.priority) for part in parts()} == {("customer", 9)}


def test_parts_keep_the_needs():
    """P1: parts of a task that fits one device only run there."""
    sent = embeddings.apply_async((texts(600),), memory_gb=30, business="revenue")
    assert len(sent.get(LIMIT_S)["vectors"]) == 600
    # One more each: what ran before is in the journal by then.
    group(at.s() for _ in range(4))().get(LIMIT_S)
    ran = [task for task in lookup.finished_tasks(settings(), 100) if task.name == "embeddings.part"]
    assert {(part.worker, part.queue) for part in ran} == {(A40, "revenue")}


def test_model(engine: LocalEngine):
    """A model may be named as an argument or as a requirement."""
    by_argument = embeddings.delay(["a cat"], model="wordllama-64").get(LIMIT_S)
    by_requirement = embeddings.apply_async((["a cat"],), model="wordllama-64").get(LIMIT_S)
    assert by_argument == by_requirement
    assert by_argument["vectors"] == vectors.to_lists(engine.embed(["a cat"], "wordllama-64").vectors)


@pytest.mark.parametrize("count", [1, 600])
def test_unknown_model(count: int):
    """An unknown model is ModelNotFound, for one text as for many."""
    with pytest.raises(ModelNotFound, match="no model 'gpt'"):
        embeddings.delay(texts(count), model="gpt").get(LIMIT_S)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"texts": "one text"}, "texts"),
        ({"texts": ["one", None]}, "texts"),
        ({"texts": {"a": 1}}, "texts"),
        ({"texts": ["a"], "encoding": "hex"}, "encoding"),
        ({"texts": ["a"], "model": 7}, "model"),
    ],
)
def test_wrong_types(arguments: dict[str, object], field: str):
    """Issue 2, Bad input: InvalidTask names the field."""
    with pytest.raises(InvalidTask) as caught:
        embeddings.apply_async(kwargs=arguments).get(LIMIT_S)
    assert caught.value.field == field


def test_ten_thousand_texts_come_back():
    """What the parts send on is far over the payload limit of a submit: work done is not refused for its size."""
    found = embeddings.apply_async([texts(10_000)], {"encoding": "base64"}).get(90)
    assert found["count"] == 10_000
    assert len(found["vectors"]) > settings().max_payload_mb * 1_000_000


def test_the_example_application():
    """STYLE 16: as its page says, with progress shown."""
    env = {**os.environ, "PYTHONPATH": str(EXAMPLES)}
    words = [sys.executable, "-m", "embeddings", str(MANY)]
    ran = subprocess.run(words, capture_output=True, text=True, env=env, check=False, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert f" of {MANY}\n" in ran.stdout
    assert f"{MANY} vectors of 256 dimensions by wordllama-256 in " in ran.stdout
    assert ran.stdout.count("that the parcel is late.") == 3


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")
def test_cancelled_after_it_was_split(tmp_path: Path):
    """Issue 3 §10: parts that wait do nothing, the whole is REVOKED at once and stays so, its chord ends."""
    holding = {name: hold.apply_async((str(tmp_path / name),), queue="customer") for name in ("one", "other")}
    for name in holding:
        wait_for((tmp_path / name).exists, f"{name} to run")
    body = chord([embeddings.s(texts(MANY)).set(queue="customer")], at.si().set(queue="customer"))()
    whole = body.parent.results[0]
    # Younger than the whole, older than its parts.
    holding["last"] = hold.apply_async((str(tmp_path / "last"),), queue="customer")
    (tmp_path / "one").unlink()
    wait_for((tmp_path / "last").exists, "the whole to be split", LIMIT_S)
    wait_for(lambda: lists().get("customer:6") == 8, "eight parts to wait")
    parts = [task.id for task in lookup.waiting_tasks(settings(), "customer")]
    assert lookup.cancel(app, settings(), whole.id) == lookup.Cancelled("running")
    assert whole.state == states.REVOKED
    for name in ("other", "last"):
        (tmp_path / name).unlink()
    with pytest.raises(ChordError, match=r"cancelled|revoked"):
        AsyncResult(body.id, app=app).get(LIMIT_S)
    assert [AsyncResult(part, app=app).get(LIMIT_S) for part in parts] == [None] * 8
    assert whole.state == states.REVOKED
    assert lists() == {}


def test_progress_never_hides_a_failure():
    """A part that ends after another one has failed the whole leaves the whole failed."""
    whole = "the-whole-task"
    app.backend.store_result(whole, ValueError("a part failed"), states.FAILURE)
    embed_part.delay(texts(3), None, whole, 100).get(LIMIT_S)
    assert app.AsyncResult(whole).state == states.FAILURE
