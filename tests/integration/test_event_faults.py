"""Open streams and waits while Redis restarts and while the server stops (issue 7 §1, §3)."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
from listening_clients import Listener
from redis_servers import RedisServer, running
from rest import api
from waiting import wait_for

from gpu_mesh.store import streams


def test_redis_restarts_and_then_the_server_stops(tmp_path: Path):
    """Nothing said is lost, listeners are told of the gap; a stop ends both streams at once, with a last comment,
    and has who waits for a task answered."""
    with running(RedisServer(tmp_path / "redis", "maxmemory 100mb")) as server:

        def say(text: str, *, run: int, at: int = 0) -> int:
            with server.client() as client:
                return streams.add(client, "t1", run=run, at=at, text=text, claim={}, max_bytes=1000, expires_s=60)

        run = say("", run=0)
        with (
            api(tmp_path, {"GPU_MESH_BROKER_URL": server.url}) as client,
            Listener(client, "/tasks/t1/stream") as task,
            Listener(client, "/events") as mesh,
            ThreadPoolExecutor() as threads,
        ):
            say("before ", run=run)
            assert task.until("piece")[-1]["text"] == "before "
            mesh.until("mesh.connected")
            server.stop()
            mesh.until("mesh.disconnected")
            assert client.get("/events").status_code == 503
            server.start()
            say("after", run=run, at=7)
            assert task.until("piece")[-1]["text"] == "after"
            assert mesh.until("mesh.connected")[-1]["away_s"] > 0
            task_id = client.post("/tasks/submit", json={"task_type": "test", "business": "customer"}).json()["task_id"]
            waits = threads.submit(client.get, f"/tasks/{task_id}", params={"wait": 25})
            wait_for(lambda: "\ngpumesh_http_requests_open 4.0" in client.get("/metrics").text, "the wait to begin")
            (process,) = [one for one in psutil.Process().children() if "api" in one.cmdline()]
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            assert list(task) == []
            assert not [heard for heard in mesh if heard.event not in ("mesh", "task")]
            assert task.comments[-1] == mesh.comments[-1] == "the server stops"
            answer = waits.result(10)
            assert (answer.status_code, answer.json()["state"]) == (200, "UNSCHEDULABLE")
            process.wait(10)
            # Less than the server's own patience with requests that wait.
            assert time.monotonic() - began < 4
