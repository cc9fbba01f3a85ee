"""Connections cut, before and in the middle of answers: each job runs once, is acked once (DESIGN §5, §6)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
import redis
from bare_workers import Mesh, mesh
from cutting_proxy import CuttingProxy, cutting_proxy
from waiting import wait_for

from gpu_mesh.store import claims


def _cut(client: redis.Redis) -> None:
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def test_a_job_outlives_its_connection(survivors: Mesh):
    """DESIGN §9: every connection cut while a job runs, three times: it goes on, runs once, is acked once."""
    gate = survivors.folder / "gate"
    task = survivors.hold(gate, queue="customer")
    survivors.started(task)
    with survivors.server.client() as client:
        for _ in range(3):
            _cut(client)
            # Whoever is idle is back and runs something beside it.
            survivors.ended(survivors.send(queue="customer"))
        assert len(survivors.claims()) == 1
    gate.unlink()
    survivors.ended(task)
    survivors.settled()
    assert len(survivors.ledger.starts(task)) == 1


def test_connections_cut_while_idle_lose_nothing(survivors: Mesh, chance: random.Random):
    """N4: cut again and again between and under short jobs: each runs once."""
    tasks = []
    with survivors.server.client() as client:
        for _ in range(10):
            tasks += [survivors.send(0.01, queue="customer") for _ in range(chance.randrange(4))]
            _cut(client)
    survivors.ended(*tasks)
    survivors.settled()
    ends = survivors.ledger.ends()
    assert {task: ends[task] for task in tasks} == dict.fromkeys(tasks, 1)


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mesh, CuttingProxy]]:
    """A mesh whose one worker reaches Redis through the proxy."""
    with mesh(tmp_path_factory.mktemp("proxied")) as found, cutting_proxy(found.server.port) as proxy:
        found.worker("n1", url=proxy.url).start()
        yield found, proxy
        found.close()


def _lost_claim(sent: bytes, answer: bytes) -> bool:
    return b"\r\n$5\r\nclaim\r\n" in answer[:64]


def _script(name: str) -> Callable[[bytes, bytes], bool]:
    sha = claims.sha(name).encode()
    return lambda sent, answer: sha in sent


@pytest.mark.parametrize(
    ("rule", "let_through"),
    [
        pytest.param(_lost_claim, 0, id="a claim's answer is lost"),
        pytest.param(_lost_claim, 40, id="a claim's answer breaks off"),
        pytest.param(_script("ack"), 0, id="an ack's answer is lost"),
    ],
)
def test_answers_that_are_lost_lose_no_job(
    proxied: tuple[Mesh, CuttingProxy], rule: Callable[[bytes, bytes], bool], let_through: int
):
    """DESIGN §9: claim and ack are idempotent: of three jobs each runs once, though an answer is lost twice."""
    found, proxy = proxied
    before, allowed = proxy.cuts, proxy.cuts + 2
    proxy.cut(lambda sent, answer: proxy.cuts < allowed and rule(sent, answer), let_through=let_through)

    tasks = [found.send(0.05, queue="customer") for _ in range(3)]

    found.ended(*tasks)
    wait_for(lambda: proxy.cuts == allowed, "both cuts")
    proxy.heal()
    found.settled()
    assert proxy.cuts - before == 2
    assert {task: found.ledger.ends()[task] for task in tasks} == dict.fromkeys(tasks, 1)
    assert found.all_workers[0].readies() == 1
