"""A storm of SIGKILL on workers and their children: nothing is lost, and no more is run twice than was killed (S3)."""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress

import psutil
import pytest
from bare_workers import BareWorker, Mesh
from waiting import wait_for

#: Share of the kills that hit a whole worker.
WORKERS_SHARE = 0.4


def _kill(workers: list[BareWorker], chance: random.Random) -> str:
    """Kill a worker, which is started again, or one's child."""
    victim = chance.choice(workers)
    if chance.random() < WORKERS_SHARE:
        victim.kill()
        victim.start(wait=False)
        return f"worker {victim.name}"
    wait_for(lambda: not victim.alive() or _children(victim), f"children of {victim.name}", 30.0)
    children = _children(victim)
    if not children:
        return "nobody"
    child = chance.choice(children)
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    return f"child {child} of {victim.name}"


def _children(worker: BareWorker) -> list[int]:
    with suppress(psutil.NoSuchProcess):
        return worker.children()
    return []


@pytest.mark.parametrize(
    ("count", "kills"),
    [pytest.param(200, 12, id="quick"), pytest.param(3000, 60, id="long", marks=[pytest.mark.soak])],
)
def test_a_storm_loses_nothing(fleet: Mesh, chance: random.Random, record_property, count: int, kills: int):
    """S3: lost 0, duplicates no more than kills; the ledger decides, not the broker."""
    workers = fleet.workers("n1", "n2", "n3", GPU_MESH_LEASE_TTL_S="1.5")
    tasks = [fleet.send(0.05, queue=chance.choice(["customer", "internal", "ai-batch"])) for _ in range(count)]
    hit = []
    for kill in range(1, kills + 1):
        # Spread over the work, the last kills still with some left.
        due = kill * count // (kills + 2)
        wait_for(lambda due=due: len(fleet.ledger.ends()) >= due, f"{due} tasks done after {hit}", 60.0)
        hit.append(_kill(workers, chance))

    fleet.ended(*tasks, timeout_s=60.0)
    fleet.settled()

    killed = len(hit) - hit.count("nobody")
    record_property("storm", {"kills": killed, "duplicates": fleet.ledger.duplicates()})
    assert killed >= kills - 2, hit
    assert set(fleet.ledger.ends()) == set(tasks)
    assert fleet.ledger.duplicates() <= killed
    assert fleet.dead() == []
