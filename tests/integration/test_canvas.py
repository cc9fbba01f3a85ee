"""What a user of Celery expects of canvas, retries, times and errors, on two real workers (issue 2 §5; SPEC P1, P2)."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from canvas_tasks import at, heavy, idle, note_error, now, swap, swap_for_group, travel, unstable, write
from celery import chain, chord, group
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded
from sample_tasks import add, fail, flaky, note, total
from two_gpus import A40, RTX_4090, purge, two_gpus
from waiting import wait_for

from gpu_mesh import app
from gpu_mesh.errors import InvalidTask
from gpu_mesh.services import lookup
from gpu_mesh.settings import settings
from gpu_mesh.store.client import connect
from gpu_mesh.tasks.embeddings import embeddings

#: How long any of these may take, s.
LIMIT_S = 20


@pytest.fixture(scope="module")
def workers(empty_redis: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with two_gpus(tmp_path_factory.mktemp("canvas")) as log:
        yield log


@pytest.fixture(autouse=True)
def _clean(workers: Path) -> Iterator[None]:
    yield
    purge()


def test_chain():
    """Issue 2 §5: chains keep working."""
    assert chain(add.s(2, 3), add.s(4), add.s(5))().get(LIMIT_S) == 14


def test_group_keeps_order():
    """Issue 2 §5: groups keep working."""
    assert group(add.s(i, i) for i in range(8))().get(LIMIT_S) == [2 * i for i in range(8)]


def test_chord_and_nested_chord():
    """Issue 2 §5: chords keep working, also inside one another."""
    flat = chord([add.s(i, i) for i in range(4)], total.s())()
    nested = chord([chord([add.s(1, 1), add.s(2, 2)], total.s()), add.s(3, 3)], total.s())()
    assert flat.get(LIMIT_S) == 12
    assert nested.get(LIMIT_S) == 12


def test_chord_whose_part_fails():
    """A failed part reaches whoever waits for the body."""
    failed = chord([add.s(1, 1), fail.s("no luck")], total.s())()
    with pytest.raises(Exception, match="no luck"):
        failed.get(LIMIT_S)


def test_map_and_starmap():
    """Issue 2 §5: map and starmap keep working; they go where the task they repeat would."""
    assert total.map([[1, 2], [3]]).delay().get(LIMIT_S) == [3, 3]
    assert add.starmap([(1, 2), (3, 4)]).delay().get(LIMIT_S) == [3, 7]
    assert add.chunks([(1, 2), (3, 4), (5, 6)], 2).delay().get(LIMIT_S) == [[3, 7], [11]]


def test_link_and_link_error(tmp_path: Path):
    """Issue 2 §5: callbacks hear the result, errbacks the error as its own class."""
    linked, failed = tmp_path / "linked", tmp_path / "failed"
    add.apply_async((2, 3), link=write.s(str(linked)))
    sent = fail.apply_async(("broken",), link_error=note_error.s(str(failed)))
    assert wait_for(lambda: linked.exists() and linked.read_text(), "the callback") == "5"
    assert wait_for(lambda: failed.exists() and failed.read_text(), "the errback") == f"{sent.id} ValueError: broken"


# One and two: what each retry turned round, the next would turn back.
@pytest.mark.parametrize("retries", [1, 2])
def test_retries_keep_queue_priority_and_needs(retries: int):
    """Issue 2 §5, Q4, P1: a retry goes the way of the run it follows."""
    ran = flaky.apply_async((retries,), business="revenue", priority=9, memory_gb=12).get(LIMIT_S)
    assert ran == {"retries": retries, "queue": "revenue", "wire_priority": 0, "needs": {"memory_gb": 12.0}}


def test_retries_come_to_an_end():
    """The error of the last retry is the task's."""
    with pytest.raises(ValueError, match="not yet"):
        flaky.apply_async((9,), business="customer").get(LIMIT_S)


def test_autoretry():
    """Issue 2 §5: `autoretry_for` keeps working."""
    assert unstable.delay(2).get(LIMIT_S) == 2


def test_countdown_and_eta():
    """Issue 2 §5: a task with ETA or countdown does not start before."""
    sent_at = time.time()
    eta = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1)
    later = [now.apply_async(countdown=1), now.apply_async(eta=eta)]
    for result in later:
        assert sent_at + 1 <= result.get(LIMIT_S) < sent_at + LIMIT_S


def test_expires():
    """A task that is too late is not run."""
    sent = add.apply_async((1, 1), expires=datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1))
    with pytest.raises(TaskRevokedError, match="expired"):
        sent.get(LIMIT_S)


def test_ignore_result(tmp_path: Path):
    """Issue 2 §5: a task without a result leaves none, declared or per call."""
    declared = note.delay(str(tmp_path / "declared"), "ran")
    per_call = write.apply_async(("ran", str(tmp_path / "per call")), ignore_result=True)
    for name in ("declared", "per call"):
        wait_for((tmp_path / name).exists, f"the task whose result is ignored, {name}")
    # One more through each queue of messages: by its end the two above have ended.
    group(at.s() for _ in range(6))().get(LIMIT_S)
    with connect(settings()) as client:
        assert not client.exists(*(f"celery-task-meta-{result.id}" for result in (declared, per_call)))


def test_ignore_result_of_a_call_that_is_passed_on(tmp_path: Path):
    """A run that moves to a device that fits is still the call it was."""
    sent = [write.apply_async(("ran", str(tmp_path / str(i))), memory_gb=30, ignore_result=True) for i in range(3)]
    wait_for(lambda: len(list(tmp_path.iterdir())) == len(sent), "six runs")
    group(at.s() for _ in range(6))().get(LIMIT_S)
    with connect(settings()) as client:
        kept = [client.get(f"celery-task-meta-{result.id}") or "" for result in sent]
    assert not [meta for meta in kept if "SUCCESS" in meta]


def test_each_link_of_a_chain_goes_its_own_way():
    """Q7, Q4: what `.set` says is honoured for later links, and not inherited by others."""
    trail = chain(
        travel.s([]).set(business="revenue"),
        travel.s().set(business="customer", priority=9),
        travel.s().set(queue="ai-batch", priority=1),
        travel.s(),
    )().get(LIMIT_S)
    assert trail == [["revenue", 6], ["customer", 0], ["ai-batch", 9], ["internal", 6]]


def test_replace():
    """Issue 2 §5: `self.replace` keeps the caller's id, for a task and for a canvas."""
    assert swap.delay(2, 3).get(LIMIT_S) == 5
    assert swap_for_group.delay([1, 2, 3]).get(LIMIT_S) == 9


def test_errors_arrive_as_their_own_class():
    """Issue 2, Bad input: wrong texts are InvalidTask with field, value and remedy in the caller."""
    with pytest.raises(InvalidTask, match="texts") as caught:
        embeddings.delay(["right", 7]).get(LIMIT_S)
    assert (caught.value.field, caught.value.value) == ("texts", 7)
    assert "item 1" in caught.value.remedy


def test_time_limits():
    """Soft and hard limits end a job, and the worker goes on."""
    soft, hard = idle.apply_async((30,), soft_time_limit=1), idle.apply_async((30,), time_limit=1)
    with pytest.raises(SoftTimeLimitExceeded):
        soft.get(LIMIT_S)
    with pytest.raises(TimeLimitExceeded):
        hard.get(LIMIT_S)
    assert set(group(at.s() for _ in range(4))().get(LIMIT_S)) <= {A40, RTX_4090}


def test_needs_decide_the_device():
    """P1, P2: what fits one device only runs there, each time."""
    large = [at.apply_async(memory_gb=30) for _ in range(10)]
    typed = [at.apply_async(gpu_type="RTX 4090", require_gpu_type=True) for _ in range(10)]
    assert {result.get(LIMIT_S) for result in large} == {A40}
    assert {result.get(LIMIT_S) for result in typed} == {RTX_4090}
    assert heavy.delay().get(LIMIT_S) == A40


@pytest.mark.parametrize(
    ("needs", "reasons"),
    [
        ({"memory_gb": 50}, ["gpu0@pair offers 23 GB", "gpu1@pair offers 39 GB"]),
        ({"labels": {"trust": "owned"}}, ["gpu0@pair has no such label", "gpu1@pair has no such label"]),
        ({"gpu_type": "H100", "require_gpu_type": True}, ["gpu0@pair is a RTX 4090", "gpu1@pair is a A40"]),
        ({"node": "elsewhere"}, ["this is gpu0@pair", "this is gpu1@pair"]),
    ],
)
def test_needs_that_fit_no_device(needs: dict[str, object], reasons: list[str]):
    """P1, P2: it waits, is reported with every device's reason, and blocks nobody."""
    misfit = at.apply_async(**needs)
    assert at.delay().get(LIMIT_S) in (A40, RTX_4090)
    (waiting,) = [task for task in lookup.waiting_tasks(settings()) if task.id == misfit.id]
    for reason in reasons:
        assert reason in str(waiting.why)
    assert lookup.cancel(app, settings(), misfit.id).was == "waiting"


def test_by_name():
    """`send_task` of an application that does not have the code goes the same way."""
    sent = app.send_task("canvas_tasks.travel", ([],), business="customer", priority=7)
    assert sent.get(LIMIT_S) == [["customer", 3]]
