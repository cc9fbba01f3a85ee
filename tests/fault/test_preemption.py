"""Background jobs make room for realtime ones, and lose nothing by it, with real processes (SPEC R3, DESIGN §7, §9)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from answers import Reading, ask, said
from bare_workers import BareWorker, Mesh, mesh
from celery.result import AsyncResult
from mesh_scripts import write_scripts
from ollama_stub import OllamaStub
from waiting import wait_for

from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.domain.preemption import PREEMPTED
from gpu_mesh.services.lookup import running_tasks, waiting_tasks
from gpu_mesh.settings import Settings
from gpu_mesh.store import journal, keys, nodes, preemption
from gpu_mesh.tasks.embeddings import PIECE

#: How often a task of these tests may be preempted.
LIMIT = 2
LEASE_S = 1.2
DEVICE = Device(name="gpu0", node="n1", kind=DeviceKind.FAKE, gpu_type="A40", memory_gb=40.0)
NODE = nodes.Node(name="n1", role="compute", host="test", version="0", devices=(DEVICE,))
#: Tells its runs, and saves a number when it is asked to stop.
SAVING = """
import json, pathlib, signal, sys, time
given = json.load(sys.stdin)
runs = pathlib.Path(given["runs"])
saved = pathlib.Path(given["checkpoint_dir"]) / "number"
def tell(what):
    with runs.open("a") as out:
        out.write(what + "\\n")
def stop(*_):
    saved.write_text("7")
    tell("asked")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
began = saved.read_text() if saved.exists() else "new"
tell(began)
end = time.monotonic() + 60
while pathlib.Path(given["gate"]).exists():
    assert time.monotonic() < end
    time.sleep(0.01)
print(json.dumps({"result": {"began_with": began}}))
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[OllamaStub]:
    """The engine of its device."""
    with OllamaStub() as found:
        yield found


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, engine: OllamaStub) -> Iterator[Mesh]:
    """A mesh with one worker: what runs there is in everybody's way."""
    folder = tmp_path_factory.mktemp("one")
    scripts = write_scripts(folder)
    (scripts / "saving.py").write_text(SAVING)
    with mesh(folder) as found:
        found.workers(
            "n1",
            GPU_MESH_INCLUDE="ledger_tasks,yielding_tasks",
            GPU_MESH_ENGINES="ollama",
            GPU_MESH_ENGINE_URLS=f"gpu0={engine.url}",
            GPU_MESH_EMBED_CHUNK="1000",
            GPU_MESH_LEASE_TTL_S=f"{LEASE_S:g}",
            GPU_MESH_PREEMPT_LIMIT=str(LIMIT),
            GPU_MESH_SCRIPTS_DIR=str(scripts),
            GPU_MESH_SCRIPT_GRACE_S="1",
        )
        yield found


@pytest.fixture
def only(one: Mesh) -> Iterator[Mesh]:
    """The mesh with its worker up and idle. At the end nothing is left of asks."""
    one.revive()
    one.settled()
    yield one
    one.settled()
    with one.server.client() as client:
        assert client.keys("gpumesh:running:*") == []
        assert client.hgetall("gpumesh:asked") == {}


class Job:
    """A background job that runs while its gate is there."""

    def __init__(self, fleet: Mesh, folder: Path, name: str, queue: str = "ai-batch", **options: object) -> None:
        self.fleet, self.gate = fleet, folder / "gate"
        self.gate.touch()
        args = [str(fleet.ledger.path), str(self.gate)]
        self.result: AsyncResult = fleet.app.send_task(f"yielding.{name}", args, queue=queue, **options)
        self.id = str(self.result.id)
        fleet.started(self.id)

    @property
    def steps(self) -> list[int]:
        """The numbers it wrote."""
        path = Path(f"{self.gate}.steps")
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []

    def runs(self) -> int:
        return len(self.fleet.ledger.starts(self.id))

    def reach(self, more: int) -> None:
        """Wait until it has done so many steps more."""
        before = len(self.steps)
        wait_for(lambda: len(self.steps) >= before + more, f"{more} steps")

    def end(self) -> object:
        """Let it end; what it returns."""
        self.gate.unlink()
        return self.result.get(timeout=20)


def _deliveries(fleet: Mesh) -> int:
    with fleet.server.client() as client:
        [key] = fleet.claims()
        [held] = [value for field, value in client.hgetall(key).items() if field[0] not in "=+"]
    return int(held.split("\t")[3])


def _counted(fleet: Mesh) -> int:
    with fleet.server.client() as client:
        return sum(preemption.counts(client).values())


def _quick(fleet: Mesh, queue: str = "ai-realtime", **options: object) -> AsyncResult:
    return fleet.app.send_task("yielding.quick", [str(fleet.ledger.path)], queue=queue, **options)


@pytest.mark.parametrize(
    ("urgent", "queue"), [("ai-realtime", "ai-batch"), ("customer", "internal"), ("revenue", "ai-batch")]
)
def test_a_job_with_checkpoints_goes_on_where_it_was(only: Mesh, tmp_path: Path, urgent: str, queue: str):
    """R3: it yields, waits as PREEMPTED, and goes on: no step is lost, none is done twice, no delivery is counted."""
    job, before = Job(only, tmp_path, "count", queue), _counted(only)
    job.reach(5)
    gate = tmp_path / "urgent"
    other = only.hold(gate, queue=urgent)
    only.started(other)
    done = job.steps
    settings = Settings(broker_url=only.server.url)
    with only.server.client() as client:  # as its supervisor would
        nodes.register(client, NODE, instance="test", ttl_s=60)
    assert [(task.id, task.state) for task in waiting_tasks(settings)] == [(job.id, PREEMPTED)]
    assert [task.id for task in running_tasks(settings)] == [other]
    assert (job.result.state, job.result.info) == (PREEMPTED, {"reason": f"{urgent} work waits"})
    assert done == list(range(1, len(done) + 1))
    gate.unlink()
    only.started(job.id, 2)
    job.reach(5)
    assert _deliveries(only) == 1
    last = job.end()
    assert job.steps == list(range(1, int(str(last)) + 1))
    assert _counted(only) == before + 1
    assert not any(line.what == "swallowed" for line in only.ledger.lines())


def test_a_job_of_restart_is_killed_and_run_again(only: Mesh, tmp_path: Path):
    """R3: it never asks; its process is gone, it begins anew, and is no delivery more."""
    job = Job(only, tmp_path, "deaf", preemptible="restart")
    [first] = only.ledger.starts(job.id)
    gate = tmp_path / "urgent"
    other = only.hold(gate, queue="ai-realtime")
    only.started(other)
    assert only.ledger.starts(other)[0].pid != first.pid
    assert job.result.state == PREEMPTED
    gate.unlink()
    only.started(job.id, 2)
    assert _deliveries(only) == 1
    job.end()
    assert only.ledger.ends()[job.id] == 1


@pytest.mark.parametrize("header", [True, False])
def test_a_job_that_may_not_be_preempted_is_left_alone(only: Mesh, tmp_path: Path, header: bool):
    """R3: by its caller, or by its task alone (a stock producer's message says nothing). Realtime work waits."""
    job = Job(only, tmp_path, "count" if header else "never", **({"preemptible": False} if header else {}))
    job.reach(1)
    other = _quick(only)
    job.reach(150)  # 1.5 s: it has been looked at
    assert job.runs() == 1
    assert only.ledger.starts(str(other.id)) == []
    job.end()
    other.get(timeout=20)
    assert job.runs() == 1


def test_one_job_is_preempted_only_so_often(only: Mesh, tmp_path: Path):
    """No livelock: after `GPU_MESH_PREEMPT_LIMIT` times it runs to its end, and realtime work waits for it."""
    job = Job(only, tmp_path, "count")
    for turn in range(LIMIT):
        job.reach(15)
        _quick(only).get(timeout=20)
        only.started(job.id, turn + 2)
    last = _quick(only)
    job.reach(150)
    assert job.runs() == LIMIT + 1
    job.end()
    assert last.get(timeout=20)
    with only.server.client() as client:
        ended = wait_for(lambda: journal.ended(client, job.id), "its end to be written down")
        assert preemption.times(client, [ended["tag"]]) == {ended["tag"]: LIMIT}
        assert ended["deliveries"] == 1


def test_work_that_becomes_due_preempts_too(only: Mesh, tmp_path: Path):
    """DESIGN §7: nobody publishes it at that moment; the look of each second finds it."""
    job = Job(only, tmp_path, "count")
    _quick(only, countdown=0.5).get(timeout=20)
    only.started(job.id, 2)
    job.end()


def test_a_job_that_does_not_ask_runs_on(only: Mesh, tmp_path: Path):
    """R3: one that saves nothing is asked and never ended for it."""
    job = Job(only, tmp_path, "deaf")
    other = _quick(only)
    with only.server.client() as client:
        wait_for(lambda: client.hlen("gpumesh:asked") == 1, "the ask")
    assert only.ledger.starts(str(other.id)) == []
    job.end()
    other.get(timeout=20)
    assert job.runs() == 1


def test_a_victim_that_dies_while_it_is_asked(only: Mesh, tmp_path: Path):
    """DESIGN §9: its machine is gone; the realtime job runs first, the victim goes on from its checkpoint."""
    job = Job(only, tmp_path, "count")
    job.reach(15)
    [child] = only.ledger.starts(job.id)
    os.kill(child.pid, signal.SIGSTOP)
    with only.server.client() as client:
        other = _quick(only)
        wait_for(lambda: client.hlen("gpumesh:asked") == 1, "the ask")
        saved = client.get(keys.checkpoint(job.id))
    [worker] = only.all_workers
    assert isinstance(worker, BareWorker)
    worker.kill()
    only.revive()
    other.get(timeout=20)
    only.started(job.id, 2)
    order = [line.task for line in only.ledger.lines() if line.what == "start" and line.task in (job.id, str(other.id))]
    assert order == [job.id, str(other.id), job.id]
    job.reach(1)
    last = job.end()
    assert saved is not None
    # But for the step that it had written and not saved.
    assert sorted(set(job.steps)) == list(range(1, int(str(last)) + 1))
    assert len(job.steps) <= int(str(last)) + 1


def test_a_script_is_asked_to_save_and_goes_on(only: Mesh, tmp_path: Path):
    """R3: SIGTERM, what it saved, and the next run from there."""
    gate, ledger = tmp_path / "gate", tmp_path / "runs"
    gate.touch()
    result = only.app.send_task("training", ["saving.py", {"gate": str(gate), "runs": str(ledger)}], gpu_count=0)
    wait_for(ledger.exists, "the script")
    _quick(only).get(timeout=20)
    wait_for(lambda: len(ledger.read_text().split()) == 3, "the second run")
    gate.unlink()
    assert result.get(timeout=20) == {"began_with": "7"}
    assert ledger.read_text().split() == ["new", "asked", "7"]


def test_an_answer_is_stopped_and_made_anew(only: Mesh, engine: OllamaStub, tmp_path: Path):
    """R3, issue 5 §5: the engine stops at once; who reads the answer is told that it begins anew."""
    engine.requests.clear()
    engine.stopped, engine.token_s, engine.reply_tokens = 0, 0.02, 2000
    reading = Reading(only, ask(only, "What is a mesh", options={"queue": "ai-batch"}))
    reading.words(5)
    gate = tmp_path / "urgent"
    only.started(only.hold(gate, queue="ai-realtime"))
    wait_for(lambda: engine.running == 0, "the engine to stop")
    assert (reading.sent.state, engine.stopped) == (PREEMPTED, 1)
    engine.reply_tokens = 8
    gate.unlink()
    assert reading.end() == said("What is a mesh", 8) == reading.sent.get(timeout=20)["text"]
    assert reading.restarts == 1
    assert [path for path, _ in engine.requests] == ["/api/generate"] * 2


def test_embeddings_keep_the_pieces_that_are_done(only: Mesh, engine: OllamaStub, tmp_path: Path):
    """R3, issue 5 §5: one part yields between two pieces; no text is embedded twice, and none is left out."""
    texts = [f"text {number}" for number in range(10 * PIECE - 5)]
    engine.requests.clear()
    engine.embed_s = 0.3

    def pieces() -> list[list[str]]:
        return [body["input"] for path, body in engine.requests if path == "/api/embed"]

    result = only.app.send_task("embeddings", [texts], queue="ai-batch")
    wait_for(pieces, "the first piece")
    gate = tmp_path / "urgent"
    only.started(only.hold(gate, queue="ai-realtime"))
    assert result.state == PREEMPTED
    assert len(pieces()) < 10
    engine.embed_s = 0.0
    gate.unlink()
    found = result.get(timeout=20)
    assert found["count"] == len(found["vectors"]) == len(texts)
    assert [text for piece in pieces() for text in piece] == texts
