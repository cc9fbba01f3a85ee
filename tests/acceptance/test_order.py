"""Strict order (SPEC Q1, Q2): what waits runs in the order of the weights, whatever came first."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from processes import gpu_mesh
from sample_tasks import note, where
from waiting import wait_for

from gpu_mesh import app, settings
from gpu_mesh.domain.queues import GPU_QUEUES
from gpu_mesh.services import lookup

#: Tasks of each queue: 30 in all.
EACH = 6
SEED = 20


def test_thirty_tasks_run_in_the_order_of_the_weights(broker: str, tmp_path: Path) -> None:
    """Queued in a shuffled order while nothing consumes; one device then takes them queue by queue, each in turn."""
    sent = [queue for queue in GPU_QUEUES for _ in range(EACH)]
    random.Random(SEED).shuffle(sent)
    ran = tmp_path / "ran"
    counts: Counter[str] = Counter()
    for queue in sent:
        note.apply_async([str(ran), f"{queue} {counts[queue]}"], queue=queue)
        counts[queue] += 1
    assert not ran.exists()
    with gpu_mesh("worker", "--devices", "cpu", log=tmp_path / "log", ready="ready.", env={"NODE_NAME": "strict"}):
        wait_for(lambda: ran.exists() and len(ran.read_text().splitlines()) == len(sent), "30 tasks")
    assert ran.read_text().splitlines() == [f"{queue} {turn}" for queue in GPU_QUEUES for turn in range(EACH)]


def test_a_send_by_name_keeps_what_the_task_declares(broker: str) -> None:
    """`send_task("…")` of a task known here goes where `.delay()` would send it; an unknown one to internal (Q7)."""
    app.send_task("sample_tasks.where")
    app.send_task("somewhere.else", business="revenue")
    app.send_task("somewhere.else")
    assert where.declared["queue"] == "customer"
    assert [task.queue for task in lookup.waiting_tasks(settings())] == ["revenue", "customer", "internal"]
