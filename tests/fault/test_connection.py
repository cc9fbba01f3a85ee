"""Connections cut, before and in the middle of answers: each job runs once, is acked once (DESIGN §5, §6)."""

from __future__ import annotations

import os
import random
import signal
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


@pytest.mark.parametrize(
    ("size", "awaited"),
    [
        pytest.param(0, "Connected to", id="written whole"),
        # The worker goes on writing before it connects again.
        pytest.param(1_000_000, "Connection to broker lost", id="written in part"),
    ],
)
def test_a_connection_cut_before_the_child_begins_loses_no_job(survivors: Mesh, size: int, awaited: str):
    """DESIGN §6, §9: claimed and on its way to the child when the connection goes: it runs once, and is acked."""
    stopped = [child for worker in survivors.all_workers for child in worker.children()]
    before = _said(survivors, awaited)
    for child in stopped:
        os.kill(child, signal.SIGSTOP)
    try:
        options = {"queue": "customer", "headers": {"more": "x" * size}}
        task = survivors.app.send_task("ledger.work", [str(survivors.ledger.path)], **options).id
        wait_for(lambda: any(task in worker.log.read_text() for worker in survivors.all_workers), "the claim")
        with survivors.server.client() as client:
            _cut(client)
            # A busy worker listens on this one only.
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        wait_for(lambda: min(map(int.__sub__, _said(survivors, awaited), before)) > 0, "the loss in both logs")
    finally:
        for child in stopped:
            os.kill(child, signal.SIGCONT)

    survivors.ended(task)
    survivors.settled()
    assert len(survivors.ledger.starts(task)) == 1


def test_a_connection_cut_while_a_rate_limit_holds_a_job_loses_none(survivors: Mesh):
    """What waits in a worker for its task's rate limit is handed back, and runs later."""
    tasks = [
        survivors.app.send_task("ledger.limited", [str(survivors.ledger.path)], queue="customer").id for _ in range(4)
    ]
    wait_for(lambda: len(survivors.ledger.ends().keys() & {*tasks}) == 2, "the first of each worker")
    wait_for(lambda: len(survivors.claims()) == 2, "both workers to hold one back")
    with survivors.server.client() as client:
        _cut(client)
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    survivors.ended(*tasks)
    survivors.settled()
    assert {task: survivors.ledger.ends()[task] for task in tasks} == dict.fromkeys(tasks, 1)


def _said(fleet: Mesh, words: str) -> list[int]:
    """How often each worker's log has them."""
    return [worker.log.read_text().count(words) for worker in fleet.all_workers]


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
