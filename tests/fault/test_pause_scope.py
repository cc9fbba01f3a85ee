"""How far a realtime job holds ai-batch back, with real workers (SPEC R3; DESIGN §7)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bare_workers import Mesh, mesh
from waiting import wait_for

from gpu_mesh.services import snapshot
from gpu_mesh.settings import Settings


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A node of two devices and one of one, with the scope that is the default: the node."""
    with mesh(tmp_path_factory.mktemp("nodes")) as found:
        for worker in [found.worker("n1"), found.worker("n1", gpu="gpu1"), found.worker("n2")]:
            worker.start(wait=False)
        for worker in found.all_workers:
            worker.await_ready()
        yield found


def _closed(fleet: Mesh) -> str | None:
    """What `gpu-mesh queues` says of ai-batch."""
    seen = snapshot.read(Settings(broker_url=fleet.server.url))
    return next(queue.closed for queue in seen.queues if queue.name == "ai-batch")


def test_a_realtime_job_holds_its_node_back(nodes: Mesh, tmp_path: Path):
    """R3, scope node: the node's other device leaves batch alone, another node's takes it; `queues` says by what."""
    gate = tmp_path / "gate"
    job = nodes.hold(gate, queue="ai-realtime", device="gpu0@n1")
    assert nodes.started(job) == "gpu0@n1"
    here = nodes.send(queue="ai-batch", device="gpu1@n1")
    elsewhere = nodes.send(queue="ai-batch", node="n2")
    nodes.ended(elsewhere)
    other = nodes.send(queue="internal", device="gpu1@n1")
    nodes.ended(other)
    assert nodes.ledger.starts(here) == []
    assert (_closed(nodes) or "").startswith(f"realtime on n1 by {job} since ")
    gate.unlink()
    nodes.ended(here)
    nodes.settled()
    wait_for(lambda: _closed(nodes) is None, "the queue to be open")
