"""The REST API's tasks through kills, restarts and clients that hang up (SPEC A1; DESIGN §9)."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from bare_workers import Mesh, mesh
from processes import gpu_mesh
from rest import api
from waiting import wait_for

from gpu_mesh.store import keys, queues

INCLUDE = "sample_tasks,halting_tasks"
WAITERS = 50


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh with one worker."""
    with mesh(tmp_path_factory.mktemp("rest")) as found:
        found.workers("n1", GPU_MESH_INCLUDE=INCLUDE)
        yield found


@pytest.fixture(scope="module")
def client(fleet: Mesh) -> Iterator[httpx.Client]:
    """Of an API that lives as long as the file's tests."""
    with api(fleet.folder, fleet.env(GPU_MESH_INCLUDE=INCLUDE)) as found:
        yield found


def submit(client: httpx.Client, body: dict[str, object], key: str | None = None) -> httpx.Response:
    return client.post("/tasks/submit", json=body, headers={"Idempotency-Key": key} if key else {})


class TestOutcomes:
    def test_a_result(self, client: httpx.Client) -> None:
        """`wait`: 200 with what it gave; and the same when asked later, with where it ran."""
        answer = submit(client, {"task_type": "test", "args": [{"a": [1, None, "é"]}], "wait": 20})
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert (told["state"], told["ended"], told["result"]["echo"]) == ("SUCCESS", True, {"a": [1, None, "é"]})
        path = f"/tasks/{told['task_id']}"
        found = wait_for(lambda: (one := client.get(path).json())["ran_s"] is not None and one, "its journal's entry")
        assert (found["worker"], found["device"], found["node"]) == ("gpu0@n1", "gpu0", "n1")
        assert told["task_id"] in client.get("/tasks/completed").json()["tasks"]
        assert client.delete(path).status_code == 409

    def test_an_error(self, client: httpx.Client) -> None:
        told = submit(client, {"task_type": "sample_tasks.fail", "args": ["no bread"], "wait": 20}).json()
        assert (told["state"], told["error"]) == ("FAILURE", {"type": "ValueError", "message": "no bread"})

    def test_a_task_without_result_ends_its_wait(self, client: httpx.Client, tmp_path: Path) -> None:
        body = {"task_type": "sample_tasks.note", "args": [str(tmp_path / "note"), "x"], "wait": 20}
        began = time.monotonic()
        told = submit(client, body).json()
        assert told["ended"], told
        assert time.monotonic() - began < 15

    def test_running_cancelled_and_its_wait_over(self, client: httpx.Client, tmp_path: Path) -> None:
        """202 while it runs; a cancel ends the run, and whoever waits for it."""
        gate = tmp_path / "gate"
        answer = submit(client, {"task_type": "sample_tasks.hold", "args": [str(gate)], "wait": 0.1})
        assert answer.status_code == 202
        path = answer.headers["Location"]
        wait_for(gate.exists, "its start")
        found = client.get(path).json()
        assert (found["state"], found["worker"], found["deliveries"]) == ("STARTED", "gpu0@n1", 1)
        assert client.get("/tasks/active", params={"worker": "gpu0@n1"}).json()["tasks"].keys() == {found["task_id"]}
        with ThreadPoolExecutor(1) as pool:
            waits = pool.submit(client.get, path, params={"wait": 20})
            assert client.delete(path).json()["was"] == "running"
            assert waits.result(20).json()["state"] == "REVOKED"

    def test_a_dead_letter_ends_its_wait(self, fleet: Mesh, client: httpx.Client, tmp_path: Path) -> None:
        """It leaves no result."""
        gate = tmp_path / "gate"
        held = submit(client, {"task_type": "sample_tasks.hold", "args": [str(gate)]}).json()["task_id"]
        wait_for(gate.exists, "its start")
        task_id = submit(client, {"task_type": "test", "business": "internal"}).json()["task_id"]
        with ThreadPoolExecutor(1) as pool:
            waits = pool.submit(client.get, f"/tasks/{task_id}", params={"wait": 20})
            with fleet.server.client() as redis:
                message = queues.find(redis, "internal", task_id)
                assert message is not None
                assert queues.remove(redis, message)
                head = json.dumps({"list": message.list, "why": "deliveries", "at": time.time(), "id": task_id})
                redis.lpush(keys.DEAD, f"{head}\n{message.raw}")
            told = waits.result(20).json()
        assert (told["state"], told["why"], told["ended"]) == ("DEAD", "deliveries", True)
        gate.unlink()
        assert client.get(f"/tasks/{held}", params={"wait": 20}).json()["state"] == "SUCCESS"


@contextmanager
def dying(fleet: Mesh, folder: Path) -> Iterator[tuple[psutil.Process, httpx.Client]]:
    """An API that ends by SIGKILL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    env = fleet.env(GPU_MESH_INCLUDE=INCLUDE, GPU_MESH_API_PORT=port)
    with (
        gpu_mesh("api", log=folder / "dying.log", ready="serving http", env=env, stop=False) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):
        yield psutil.Process(process.pid), client


def test_killed_between_reserving_and_confirming(fleet: Mesh, client: httpx.Client, tmp_path: Path) -> None:
    """Killed before it sent, and after it: the same request, to another API, has the task sent once, under one id."""
    bodies = {}
    for moment in ("before", "after"):
        path = tmp_path / moment
        bodies[moment] = {"task_type": "halting.task", "args": [str(path)], "queue": "internal", "countdown": 600}
        halt = Path(f"{path}.{moment}")
        halt.touch()
        with dying(fleet, tmp_path) as (process, doomed), ThreadPoolExecutor(1) as pool:
            lost = pool.submit(submit, doomed, bodies[moment], moment)
            wait_for(Path(f"{halt}.met").exists, f"the halt {moment} it is sent")
            process.kill()
            assert isinstance(lost.exception(20), httpx.TransportError)
        halt.unlink()
    sent = []
    for moment, body in bodies.items():
        answers = [submit(client, body, moment) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [201, 201], answers[0].text
        assert [answer.headers["Idempotent-Replayed"] for answer in answers] == ["true", "true"]
        assert len({answer.json()["task_id"] for answer in answers}) == 1
        sent.append(answers[0].json()["task_id"])
    assert sorted(client.get("/tasks/active", params={"state": "DELAYED"}).json()["tasks"]) == sorted(sent)
    with fleet.server.client() as redis:
        assert redis.zcard(keys.DELAYED) == len(bodies), "one message each"
    assert {client.delete(f"/tasks/{task_id}").json()["was"] for task_id in sent} == {"waiting"}


def test_waits_survive_a_restart_of_redis(fleet: Mesh, client: httpx.Client) -> None:
    """Fifty long polls through it: each is answered when its task ends, and none holds a thread."""
    batch = {"tasks": [{"task_type": "test", "queue": "internal", "countdown": 600}] * WAITERS}
    ids = client.post("/tasks/batch", json=batch).json()["task_ids"]
    url, answers = str(client.base_url), {}

    def wait(task_id: str) -> None:
        answers[task_id] = httpx.get(f"{url}/tasks/{task_id}", params={"wait": 50}, timeout=60).json()["state"]

    waits = [threading.Thread(target=wait, args=[task_id], daemon=True) for task_id in ids]
    for one in waits:
        one.start()
    with fleet.server.client() as redis:
        wait_for(lambda: len(redis.pubsub_channels("celery-task-meta-*")) >= WAITERS, "all of them to wait")
    assert client.get("/health", timeout=5).status_code == 200
    fleet.server.stop()
    assert client.get("/health", timeout=5).status_code == 200
    fleet.server.start()
    for task_id in ids:
        fleet.app.backend.store_result(task_id, "done", "SUCCESS")
    for one in waits:
        one.join(30)
    assert answers == dict.fromkeys(ids, "SUCCESS")


def test_who_hangs_up_is_forgotten(fleet: Mesh, client: httpx.Client) -> None:
    """Nothing listens any more for a task whose only client is gone."""
    task_id = submit(client, {"task_type": "test", "queue": "internal", "countdown": 600}).json()["task_id"]
    channel = f"celery-task-meta-{task_id}"
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{client.base_url}/tasks/{task_id}", params={"wait": 50}, timeout=1.0)
    with fleet.server.client() as redis:
        wait_for(lambda: redis.pubsub_numsub(channel)[0][1] == 0, "the end of its wait")
