"""`submit`, `Job` and `Mesh` on a real Redis, without workers: this test writes what they would (SPEC A6)."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time

import pytest
import sample_tasks
from celery.result import AsyncResult
from celery.signals import before_task_publish
from waiting import wait_for

from gpu_mesh import Call, Job, Mesh, Piece, app, submit, submit_many
from gpu_mesh.errors import (
    DeadLettered,
    InvalidTask,
    InvalidValue,
    JobCancelled,
    ModelNotFound,
    SubmittedInPart,
    UnknownQueue,
)
from gpu_mesh.sdk.waiting import Look
from gpu_mesh.settings import settings
from gpu_mesh.store import keys
from gpu_mesh.store.client import connect

pytestmark = [
    pytest.mark.usefixtures("broker"),
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),
]


def ends(job: Job, value: object, state: str = "SUCCESS") -> None:
    """As a worker stores it."""
    app.backend.store_result(job.id, value, state)


def envelopes(queue: str) -> list[dict[str, object]]:
    with connect(settings()) as client:
        return [json.loads(raw) for raw in client.lrange(queue, 0, -1)]


class TestSubmit:
    def test_what_travels(self):
        """P1, Q4: as `apply_async` sends it."""
        job = submit("embeddings", ["a"], kwargs={"encoding": "base64"}, business="revenue", priority=9, memory_gb=12)
        (sent,) = envelopes("revenue")
        mesh = sent["headers"]["mesh"]
        assert sent["headers"]["id"] == job.id
        assert (mesh["class"], mesh["priority"], mesh["needs"]["memory_gb"]) == ("revenue", 9, 12)
        assert sent["headers"]["kwargsrepr"] == "{'encoding': 'base64'}"
        assert (job.state, job.done, job.progress) == ("PENDING", False, None)
        assert (job.info().state, job.info().name) == ("UNSCHEDULABLE", "embeddings")

    def test_the_model_is_both(self):
        """P7: the model asked of an inference is what it is placed by."""
        submit("llm_inference", "hi", kwargs={"model": "small"}, queue="internal")
        submit("llm_inference", "hi", model="small", queue="internal")
        assert [sent["headers"]["mesh"]["needs"]["model"] for sent in envelopes("internal:6")] == ["small", "small"]

    def test_a_task_that_is_not_here(self):
        """A6: by its name, with the mesh's options."""
        job = submit("elsewhere.tasks.any", {"x": 1}, business="customer", priority=7, task_id="mine")
        (sent,) = envelopes("customer:3")
        assert (sent["headers"]["task"], sent["headers"]["id"], job.id) == ("elsewhere.tasks.any", "mine", "mine")

    def test_later(self):
        """DESIGN §5: delayed, and cancelled while it is."""
        job = submit("sample_tasks.add", 1, 2, countdown=600)
        assert job.info().state == "DELAYED"
        assert job.cancel().was == "waiting"
        with pytest.raises(JobCancelled, match=job.id):
            job.result(timeout=0)
        assert job.cancel().was == "done"

    def test_many(self):
        """In order, all of them; each can be waited for."""
        jobs = submit_many(Call("sample_tasks.add", n, n, queue="internal") for n in range(100))
        assert [sent["headers"]["id"] for sent in reversed(envelopes("internal:6"))] == [job.id for job in jobs]

    def test_many_go_over_one_connection(self):
        """A6: efficient."""
        submit("sample_tasks.add", 1, 1)
        with connect(settings()) as client:
            before = client.info("stats")["total_connections_received"]
            submit_many([Call("sample_tasks.add", n, n) for n in range(30)])
            # At most one for the look before, and one that a pool opens anew.
            assert client.info("stats")["total_connections_received"] - before <= 2

    def test_nobody_listens_before_somebody_waits(self):
        """S3: what is sent and never asked for must not pile up; Celery's own `get` waits all the same."""
        job = submit("sample_tasks.add", 1, 1)
        sent = sample_tasks.add.delay(1, 1)
        with connect(settings()) as client:
            assert client.pubsub_channels("*celery-task-meta-*") == []
        threading.Timer(0.1, ends, (Job(sent), 2)).start()
        assert sent.get(timeout=20) == 2
        assert job.state == "PENDING"

    def test_of_many_only_some(self):
        """Redis gets full on the way: which were sent is said, and they are in their queue."""
        calls = [Call("sample_tasks.add", n, n, queue="internal") for n in range(6)]
        seen: list[object] = []

        def fill_redis(**_: object) -> None:
            seen.append(None)
            if len(seen) == 4:
                with connect(settings()) as client:
                    client.config_set("maxmemory", 1)

        before_task_publish.connect(fill_redis)
        with connect(settings()) as client:
            limit = client.config_get("maxmemory")["maxmemory"]
            try:
                with pytest.raises(SubmittedInPart) as refused:
                    submit_many(calls)
            finally:
                before_task_publish.disconnect(fill_redis)
                client.config_set("maxmemory", limit)
        assert refused.value.sent == [call.id for call in calls[:3]]
        assert refused.value.unsure == calls[3].id
        assert str(refused.value).startswith("3 of 6 tasks were sent, then: Redis at ")
        assert len(envelopes("internal:6")) == 3


class TestResult:
    def test_it_is_what_the_task_returned(self):
        """A6: also when it ends while it is waited for, and to several who wait."""
        job = submit("sample_tasks.add", 1, 2)
        found: list[object] = []
        threads = [threading.Thread(target=lambda: found.append(job.result(timeout=30))) for _ in range(3)]
        for thread in threads:
            thread.start()
        ends(job, {"sum": 3})
        for thread in threads:
            thread.join(30)
        assert found == [{"sum": 3}] * 3
        assert (job.state, job.done, job.wait(timeout=0)) == ("SUCCESS", True, True)
        assert Mesh().task(job.id).result() == {"sum": 3}

    def test_what_the_task_raised(self):
        """STYLE 8: our errors as they are, others too."""
        ours, theirs = submit("sample_tasks.add", 1, 2), submit("sample_tasks.add", 1, 2)
        ends(ours, ModelNotFound("no such model"), "FAILURE")
        ends(theirs, ZeroDivisionError("by zero"), "FAILURE")
        assert ours.wait(timeout=0)
        with pytest.raises(ModelNotFound, match="no such model"):
            ours.result()
        with pytest.raises(ZeroDivisionError, match="by zero"):
            theirs.result()
        with pytest.raises(ModelNotFound):
            list(ours.stream())

    def test_time_is_up(self):
        """Python's own TimeoutError, which says which task."""
        job = submit("sample_tasks.add", 1, 2)
        assert not job.wait(timeout=0.02)
        with pytest.raises(TimeoutError, match=job.id):
            job.result(timeout=0.02)
        with pytest.raises(TimeoutError, match=job.id):
            list(job.stream(timeout=0.02))

    def test_progress(self):
        """T: done of total."""
        job = submit("sample_tasks.add", 1, 2)
        ends(job, {"done": 3, "total": 8}, "PROGRESS")
        assert job.progress == (3, 8)
        ends(job, {"done": "x"}, "PROGRESS")
        assert job.progress is None

    def test_a_task_without_a_result(self):
        """It would be waited for for ever."""
        with pytest.raises(InvalidTask, match="keeps no result"):
            submit("sample_tasks.note", "f", "t").result()

    def test_a_dead_letter_has_no_end(self):
        """DESIGN §9: nobody runs it; its reason is told."""
        job = submit("sample_tasks.add", 1, 2, queue="internal")
        with connect(settings()) as client:
            head = {"list": "internal:6", "why": "deliveries", "at": 1.0, "id": job.id}
            client.lpush(keys.DEAD, f"{json.dumps(head)}\n{client.rpop('internal:6')}")
        with pytest.raises(DeadLettered, match=job.id):
            Look(settings(), app.AsyncResult(job.id), None, doubt_after_s=0).look()

    def test_an_id_nobody_knows(self):
        """A typing error is told, and not at the first look: a task may be on its way to its worker just then."""
        look = Look(settings(), app.AsyncResult("no-such"), 30, doubt_after_s=0)
        assert look.look() is None

        def raises() -> bool:
            try:
                look.look()
            except InvalidTask as exc:
                return exc.field == "task_id"
            return False

        wait_for(raises, "InvalidTask", 20)

    def test_one_that_waits_is_no_doubt(self):
        """However often it is looked at."""
        look = Look(settings(), app.AsyncResult(submit("sample_tasks.add", 1, 2).id), 30, doubt_after_s=0)
        assert [look.look() for _ in range(5)] == [None] * 5


class TestAsync:
    def test_hundreds_wait_and_the_loop_goes_on(self):
        """A6: more than asyncio has threads; none is held between two looks."""
        jobs = [Job(f"job-{n}") for n in range(200)]

        async def all_of_them() -> list[object]:
            waiting = [asyncio.ensure_future(job.aresult(timeout=60)) for job in jobs]
            await asyncio.sleep(0)
            for job in jobs:
                await asyncio.to_thread(ends, job, job.id)
            return await asyncio.gather(*waiting)

        assert asyncio.run(all_of_them()) == [job.id for job in jobs]

    def test_no_look_is_in_the_event_loop(self):
        """A Redis that is slow to answer must not hold it up."""
        seen: list[threading.Thread] = []

        class Backend:
            """The result backend, as far as a wait asks it."""

            def get_task_meta(self, task_id: str) -> dict[str, object]:
                seen.append(threading.current_thread())
                return {"status": "SUCCESS" if len(seen) == 3 else "STARTED", "result": task_id}

            def remove_pending_result(self, result: AsyncResult) -> None: ...

        assert asyncio.run(Job(AsyncResult("a", backend=Backend(), app=app)).aresult(timeout=20)) == "a"
        assert len(seen) == 3
        assert threading.main_thread() not in seen

    def test_await_raises(self):
        """As `result` does."""
        job = submit("sample_tasks.add", 1, 2)

        async def waited() -> None:
            with pytest.raises(TimeoutError):
                await job.aresult(timeout=0.02)
            await asyncio.to_thread(job.cancel)
            with pytest.raises(JobCancelled):
                await job
            with pytest.raises(JobCancelled):
                [piece async for piece in job.astream()]

        asyncio.run(waited())

    def test_pieces(self):
        """T: what a model said, of a run that is over and of one that is left in the middle."""
        job, endless = submit("llm_inference", "hi", queue="internal"), submit("llm_inference", "hi", queue="internal")
        ends(job, {"text": "Hello you"})

        async def read() -> list[Piece]:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(endless.astream()), 0.05)
            return [piece async for piece in job.astream()]

        assert asyncio.run(read()) == [Piece("Hello you")] == list(job.stream())
        wait_for(lambda: not [one for one in threading.enumerate() if "gpu-mesh-stream" in one.name], "threads", 10)


class TestMesh:
    def test_what_waits(self):
        """A1: without the mesh's own work."""
        job = submit("sample_tasks.add", 1, 2, business="customer")
        with Mesh() as mesh:
            assert [task.id for task in mesh.waiting()] == [job.id]
            assert mesh.waiting("internal") == mesh.running() == mesh.finished() == mesh.nodes() == []
            assert {queue.name: queue.waiting for queue in mesh.queues()}["customer"] == 1
            assert mesh.status().at == pytest.approx(time.time(), abs=60)
            assert mesh.stats("10m").outcomes == mesh.stats(600).outcomes
            assert mesh.alerts().standing == []
            assert mesh.windows().phase.is_peak is False
            assert mesh.task(job.id).cancel().was == "waiting"
            mesh.close()
            assert mesh.waiting() == []

    def test_pause_and_resume(self):
        """R2: as the commands do."""
        mesh = Mesh()
        done = mesh.pause("ai-batch", until="2h", why="disk full", by="ann")
        assert (done.was, done.until is not None) == (False, True)
        closed = {queue.name: queue.closed for queue in mesh.queues()}["ai-batch"]
        assert closed is not None
        assert "paused by ann" in closed
        assert "disk full" in closed
        assert mesh.resume("ai-batch").was
        assert {queue.name: queue.closed for queue in mesh.queues()}["ai-batch"] is None

    @pytest.mark.parametrize(
        ("ask", "field", "error"),
        [
            (lambda mesh: mesh.pause("nowhere"), "queue", UnknownQueue),
            (lambda mesh: mesh.pause("ai-batch", until="soon"), "until", InvalidValue),
            (lambda mesh: mesh.pause("ai-batch", scope="attic"), "scope", InvalidValue),
            (lambda mesh: mesh.drain("attic"), "name", InvalidValue),
            (lambda mesh: mesh.drain("attic", yield_s=-1), "yield_s", InvalidValue),
            (lambda mesh: mesh.undrain("attic"), "name", InvalidValue),
            (lambda mesh: mesh.stats("2 years"), "span", InvalidValue),
            (lambda mesh: mesh.stats(float("nan")), "span", InvalidValue),
            (lambda mesh: mesh.waiting("nowhere"), "queue", InvalidValue),
            (lambda mesh: mesh.finished(limit=0), "limit", InvalidValue),
            (lambda mesh: mesh.task(""), "task_id", InvalidTask),
        ],
    )
    def test_wrong_values(self, ask: object, field: str, error: type[InvalidValue]):
        """STYLE 18: by our names, not the command line's."""
        with pytest.raises(error) as refused:
            ask(Mesh())
        assert refused.value.field == field


#: Each of these raises BrokerUnavailable where Redis is away.
AWAY = """
from gpu_mesh import Call, Job, Mesh, submit, submit_many
from gpu_mesh.errors import BrokerUnavailable
asked = {
    "submit": lambda: submit("embeddings", ["a"]), "many": lambda: submit_many([Call("embeddings", ["a"])]),
    "result": lambda: Job("x").result(), "wait": lambda: Job("x").wait(), "state": lambda: Job("x").state,
    "stream": lambda: list(Job("x").stream()), "info": lambda: Job("x").info(), "cancel": lambda: Job("x").cancel(),
    "status": lambda: Mesh().status(), "waiting": lambda: Mesh().waiting(), "pause": lambda: Mesh().pause("ai-batch"),
}
for name, ask in asked.items():
    try:
        ask()
    except BrokerUnavailable as exc:
        print(name, str(exc).split(" (")[0])
"""


def test_redis_is_away(free_port: int):
    """DESIGN §9: said at once, with the address, by every call."""
    url = f"redis://127.0.0.1:{free_port}/0"
    env = {**os.environ, "GPU_MESH_BROKER_URL": url, "GPU_MESH_SUBMIT_TIMEOUT_S": "0.5"}
    ran = subprocess.run([sys.executable, "-c", AWAY], capture_output=True, text=True, env=env, timeout=60, check=False)
    told = [line.partition(" ") for line in ran.stdout.splitlines()]
    assert [name for name, _, _ in told] == (
        ["submit", "many", "result", "wait", "state", "stream", "info", "cancel", "status", "waiting", "pause"]
    ), ran.stdout + ran.stderr
    assert {said for _, _, said in told} == {f"Redis at {url} does not answer"}
