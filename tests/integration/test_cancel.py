"""Taking a task back, wherever it is, and what the journal says of it (SPEC A1; issue 2 §10)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from canvas_tasks import at, idle
from celery import chord, group, states
from celery.exceptions import ChordError, TaskRevokedError, TimeLimitExceeded
from celery.result import AsyncResult
from sample_tasks import add, hold, total
from two_gpus import A40, RTX_4090, lists, purge, two_gpus
from waiting import wait_for

from gpu_mesh import app
from gpu_mesh.services import lookup
from gpu_mesh.services.lookup import Cancelled
from gpu_mesh.settings import settings

# Celery's result backend writes with a command that redis-py calls deprecated; here this process writes results.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")

#: How long any of these may take, s.
LIMIT_S = 20


@pytest.fixture(scope="module")
def workers(empty_redis: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with two_gpus(tmp_path_factory.mktemp("cancel")) as log:
        yield log


@pytest.fixture
def nobody(broker: str) -> Iterator[None]:
    """No worker is online: these tests come before the module's workers start."""
    yield
    purge()


@pytest.fixture
def served(workers: Path) -> Iterator[None]:
    yield
    purge()


def cancel(task_id: str) -> Cancelled:
    return lookup.cancel(app, settings(), task_id)


def held(path: Path, **options: object) -> AsyncResult:
    """A task that runs until its file is gone, and does run."""
    sent = hold.apply_async((str(path),), **options)
    wait_for(path.exists, "the held task to run")
    return sent


@pytest.mark.usefixtures("nobody")
class TestNobodyOnline:
    """A waiting task is taken back also when no worker is there to hear of it."""

    @pytest.mark.parametrize("options", [{}, {"queue": "ai-batch", "priority": 0}, {"queue": "rfa-reminders"}])
    def test_waiting(self, options: dict[str, object]):
        """It is out of its list and REVOKED at once; its neighbours stay."""
        before, sent, after = (add.apply_async((i, 1), **options) for i in range(3))
        assert cancel(sent.id) == Cancelled("waiting")
        assert sent.state == states.REVOKED
        with pytest.raises(TaskRevokedError, match="cancelled"):
            sent.get(1)
        left = [task.id for task in lookup.waiting_tasks(settings())]
        assert left == [before.id, after.id]
        assert cancel(sent.id) == Cancelled("done", states.REVOKED)

    def test_part_of_a_chord(self):
        """Whoever waits for the chord's body hears of it."""
        body = chord([add.s(1, 1), add.s(2, 2)], total.s())()
        for part in body.parent.results:
            assert cancel(part.id) == Cancelled("waiting")
        # Without its parents, whose own error a result would raise first.
        with pytest.raises(ChordError, match="cancelled"):
            AsyncResult(body.id, app=app).get(1)

    def test_given_back_by_a_dead_worker(self):
        """A task that was STARTED once, and waits again, is taken out of its list as well."""
        sent = add.delay(1, 1)
        app.backend.store_result(sent.id, None, states.STARTED)
        assert cancel(sent.id) == Cancelled("waiting")
        assert sent.state == states.REVOKED
        assert lists() == {}

    def test_journal_is_empty(self):
        """Tables of a mesh where nothing ran are empty, not an error."""
        assert lookup.running_tasks(settings()) == []
        assert lookup.finished_tasks(settings(), 10) == []


@pytest.mark.usefixtures("served")
class TestServed:
    def test_running(self, tmp_path: Path):
        """A run is ended, is not run again, and its worker goes on."""
        sent = held(tmp_path / "held", memory_gb=30)
        assert cancel(sent.id) == Cancelled("running")
        with pytest.raises(TaskRevokedError):
            sent.get(LIMIT_S)
        (tmp_path / "held").unlink()
        assert at.apply_async(memory_gb=30).get(LIMIT_S) == A40
        assert not (tmp_path / "held").exists()
        assert sent.state == states.REVOKED
        wait_for(lambda: not lookup.running_tasks(settings()), "the journal to forget the ended run")
        ended = {task.id: task for task in lookup.finished_tasks(settings(), 10)}
        assert (ended[sent.id].state, ended[sent.id].worker) == (states.REVOKED, A40)

    def test_that_keeps_no_result(self, tmp_path: Path):
        """Its claim says that it runs, the journal that it ended: the result backend says neither."""
        sent = held(tmp_path / "held", ignore_result=True)
        assert cancel(sent.id) == Cancelled("running")
        (tmp_path / "held").unlink()
        wait_for(lambda: not lookup.running_tasks(settings()), "the run to end")
        sent = at.apply_async(ignore_result=True)
        wait_for(lambda: sent.id in {task.id for task in lookup.finished_tasks(settings(), 10)}, "the task to end")
        assert cancel(sent.id) == Cancelled("done", states.SUCCESS)

    def test_waiting_behind_others(self, tmp_path: Path):
        """Both devices are busy: what waits is taken back without a worker's help, and never runs."""
        holding = [held(tmp_path / name) for name in ("one", "other")]
        waiting = hold.delay(str(tmp_path / "never"))
        wait_for(lambda: sum(lists().values()) == 1, "one task to wait")
        assert cancel(waiting.id) == Cancelled("waiting")
        for name in ("one", "other"):
            (tmp_path / name).unlink()
        assert {result.get(LIMIT_S) for result in holding} == {A40, RTX_4090}
        assert not (tmp_path / "never").exists()

    def test_ended(self):
        """Too late: it says how the task ended, and changes nothing."""
        sent = add.delay(1, 1)
        assert sent.get(LIMIT_S) == 2
        assert cancel(sent.id) == Cancelled("done", states.SUCCESS)
        assert sent.result == 2

    def test_unknown(self):
        """Nobody saw it: the workers online drop it if it comes."""
        assert cancel("never-sent") == Cancelled("unknown")
        # Each answers after it heard of the cancellation, which came first.
        assert len(app.control.ping(timeout=5, limit=2)) == 2
        with pytest.raises(TaskRevokedError):
            add.apply_async((1, 1), task_id="never-sent").get(LIMIT_S)

    def test_journal(self, tmp_path: Path):
        """A1: what runs is listed with worker and wait, what ended with state, wait and time."""
        sent = held(tmp_path / "held", business="customer", priority=7)
        (running,) = wait_for(lambda: lookup.running_tasks(settings()), "the held task in the journal")
        assert (running.id, running.name, running.state) == (sent.id, "sample_tasks.hold", states.STARTED)
        assert (running.queue, running.priority) == ("customer", 7)
        assert running.waited_s is not None
        assert 0 <= running.waited_s < LIMIT_S
        (tmp_path / "held").unlink()
        assert sent.get(LIMIT_S) == running.worker

        def mine() -> list[lookup.TaskView]:
            # An ack of the test before may come in late.
            return [task for task in lookup.finished_tasks(settings(), 10) if task.id == sent.id]

        (ended,) = wait_for(mine, "the ended task in the journal")
        assert (ended.state, ended.worker) == (states.SUCCESS, running.worker)
        # Claimed, and a moment later begun.
        assert ended.waited_s == pytest.approx(running.waited_s, abs=1.0)
        assert ended.ran_s is not None
        assert ended.ran_s > 0
        assert lookup.running_tasks(settings()) == []

    def test_journal_of_a_run_that_its_time_limit_killed(self):
        """Its child cannot write it down: the parent does."""
        sent = idle.apply_async((30,), time_limit=1)
        with pytest.raises(TimeLimitExceeded):
            sent.get(LIMIT_S)
        wait_for(lambda: not lookup.running_tasks(settings()), "the journal to forget the killed run")
        (ended,) = lookup.finished_tasks(settings(), 10)
        assert (ended.id, ended.state) == (sent.id, states.FAILURE)

    def test_journal_lists_what_ended_once(self):
        """A run that is passed on to a device that fits has not ended."""
        sent = [at.apply_async(memory_gb=30) for _ in range(4)]
        for result in sent:
            assert result.get(LIMIT_S) == A40
        group(add.s(i, i) for i in range(4))().get(LIMIT_S)
        ended = [task.id for task in lookup.finished_tasks(settings(), 100) if task.name == at.name]
        assert sorted(ended) == sorted(result.id for result in sent)
