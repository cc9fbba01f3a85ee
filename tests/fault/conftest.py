"""Faults made to happen to real processes (DESIGN §9): a Redis, workers and a ledger of each test's own."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from bare_workers import Mesh, mesh

#: Seed of every chance here; GPU_MESH_ names are the settings' own.
SEED = "FAULT_SEED"
#: Lease of workers whose recovery a test waits for, s.
SHORT_LEASE_S = 1.2


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Seeded by FAULT_SEED, else anew each time; pytest shows the seed of a test that failed."""
    seed = os.environ.get(SEED) or str(random.SystemRandom().randrange(1_000_000))
    request.node.add_report_section("setup", "seed", f"{SEED}={seed}")
    return random.Random(seed)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Mesh]:
    """A mesh without workers."""
    with mesh(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh with two bare workers of short leases, for a file's faults that they must survive."""
    with mesh(tmp_path_factory.mktemp("pair")) as found:
        found.workers("n1", "n2", GPU_MESH_LEASE_TTL_S=f"{SHORT_LEASE_S:g}")
        yield found


@pytest.fixture
def living(pair: Mesh) -> Mesh:
    """The pair, for faults that one of them does not survive: both are up, and nothing is claimed."""
    pair.revive()
    pair.settled()
    return pair


@pytest.fixture
def survivors(pair: Mesh) -> Iterator[Mesh]:
    """The pair; at the end of the test both workers must be the ones that began it."""
    pids = [worker.pid for worker in pair.all_workers]
    yield pair
    assert [worker.pid for worker in pair.all_workers if worker.alive()] == pids
    assert [worker.readies() for worker in pair.all_workers] == [1, 1]
