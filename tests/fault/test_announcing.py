"""The control worker sends alerts, and dies at it (SPEC H6; issue 6 §4): real processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from bare_workers import Mesh, mesh
from receivers import Webhook, webhook
from waiting import wait_for

from gpu_mesh.domain.alerts import Alert, Level
from gpu_mesh.domain.queues import CONTROL_QUEUE
from gpu_mesh.services import alerts, messenger
from gpu_mesh.store import keys


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as found:
        yield found


@pytest.fixture
def fleet_of_one(tmp_path: Path, hook: Webhook) -> Iterator[Mesh]:
    """A control worker with one channel."""
    with mesh(tmp_path, "maxmemory 64mb") as found:
        found.worker(
            "lead", gpu="control", queues=[CONTROL_QUEUE], device=False, GPU_MESH_ALERT_URLS=hook.url()
        ).start()
        yield found


def sending(pid: int) -> list[psutil.Process]:
    """The processes in which it sends."""
    with_path = [child for child in psutil.Process(pid).children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in with_path if messenger.__file__ in child.cmdline()]


def test_killed_while_it_sends_it_sends_again(fleet_of_one: Mesh, hook: Webhook):
    """SIGKILL of the whole worker with a message on its way to a server that hangs: the next one sends it. And a warm
    stop waits for no channel."""
    (worker,) = fleet_of_one.all_workers
    with fleet_of_one.server.client() as client:
        wait_for(lambda: client.exists(keys.ANNOUNCED), "the announcer")
        hook.hangs.set()
        alerts.post(client, Alert(rule="device", subject="gpu0@n1", level=Level.ERROR, text="does not answer"))
        assert hook.arrived.acquire(timeout=20)
        assert sending(worker.pid)
        worker.kill()
        assert hook.posts == []
        assert client.hlen(keys.OUTBOX) == 1
        hook.hangs.clear()
        # Its time is over in a minute; here at once.
        client.delete(keys.ANNOUNCER)
        worker.start()
        wait_for(lambda: hook.titles, "the message")
        assert hook.titles == ["[gpu-mesh] ERROR gpu0@n1: does not answer"]
        wait_for(lambda: not client.hlen(keys.OUTBOX), "an empty outbox")

        hook.hangs.set()
        alerts.clear(client, "device", "gpu0@n1", "answers")
        assert hook.arrived.acquire(timeout=20)
        began = time.monotonic()
        os.kill(worker.pid, signal.SIGTERM)
        assert worker.process is not None
        worker.process.wait(20)
        assert time.monotonic() - began < 15
        assert client.hlen(keys.OUTBOX) == 1
        assert "Traceback" not in worker.log.read_text()
