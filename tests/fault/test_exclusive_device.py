"""One job at a time per device, with real workers (SPEC P7): two of one GPU, and a process that was left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from bare_workers import Mesh, mesh
from waiting import wait_for

from gpu_mesh.devices.exclusive import DeviceLock
from gpu_mesh.domain.device import Device, DeviceKind

UUID = "GPU-0-of-this-machine"


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Two workers of the same GPU, as two nodes of one machine would have them."""
    with mesh(tmp_path_factory.mktemp("twins")) as found:
        for node in ("n1", "n2"):
            device = Device(name="gpu0", node=node, kind=DeviceKind.NVIDIA, gpu_type="A40", memory_gb=40.0, uuid=UUID)
            told = json.dumps(device.to_dict())
            locks = str(found.folder / "locks")
            found.worker(node, device=False, GPU_MESH_WORKER_DEVICE=told, GPU_MESH_LOCK_DIR=locks).start(wait=False)
        for worker in found.all_workers:
            worker.await_ready()
        yield found


def test_jobs_of_one_gpu_never_overlap(twins: Mesh):
    """P7: two workers, one device: each job begins when the one before has ended; all are done."""
    jobs = [twins.send(0.05) for _ in range(16)]
    twins.ended(*jobs)
    lines = twins.ledger.lines()
    assert [run.what for run in lines] == ["start", "end"] * len(jobs)
    assert all(begun.task == over.task for begun, over in zip(lines[::2], lines[1::2], strict=True))
    assert len({run.worker for run in lines}) == 2


def test_a_process_left_behind_keeps_jobs_away(twins: Mesh):
    """P7: while somebody computes on the device no worker of it claims, and its log says who; then they go on."""
    stranger = DeviceLock(Path(twins.folder / "locks"), UUID)
    wait_for(stranger.take, "the device")
    try:
        job = twins.send()
        logs = [worker.log for worker in twins.all_workers]
        wait_for(lambda: all("claims wait: its device is in use by process" in log.read_text() for log in logs), "logs")
        assert (twins.claims(), twins.ledger.starts(job)) == ([], [])
    finally:
        stranger.release()
    twins.ended(job)
