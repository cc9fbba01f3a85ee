"""The lease's thread: what it tells the children, and whom it renews for (DESIGN §6)."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cutting_proxy import cutting_proxy
from redis_servers import RedisServer, running
from waiting import wait_for

from gpu_mesh.services.board import BOARD
from gpu_mesh.services.fencing import still_ours
from gpu_mesh.settings import Settings
from gpu_mesh.store import checkpoints, claims, keys, leases
from gpu_mesh.store.client import connect
from gpu_mesh.store.embedded import Address
from gpu_mesh.store.scripts import sha, source
from workers.lease import PROMOTE_EVERY_S, Lease, Tick
from workers.pulse import Pulse

TTL_S = 0.5
#: How often a client sends what it gets no answer to.
TRIES = 2
WORKER = "gpu0@lease"


@pytest.fixture(autouse=True)
def board() -> Iterator[None]:
    """This process is a worker's parent, and none afterwards."""
    BOARD.take()
    yield
    BOARD.take()


@contextmanager
def lease(
    url: str, pulse: Pulse, on_lost: Callable[[], None] = lambda: None, on_tick: Tick = lambda *, tends: None
) -> Iterator[Lease]:
    """A lease at `url`, ended with the block."""
    found = Lease(Settings(broker_url=url, lease_ttl_s=TTL_S), WORKER, pulse=pulse, on_tick=on_tick, on_lost=on_lost)
    found.start()
    try:
        yield found
    finally:
        found.stop()


def _left_s(client) -> float:
    seconds, micros = client.time()
    return _end_s(client) - seconds - micros / 1e6


def _end_s(client) -> float:
    """When the lease ends, s by Redis's clock; 0 where there is none."""
    return float(client.zscore(f"{keys.PREFIX}leases", WORKER) or 0) / 1e6


def test_while_it_is_renewed_nobody_asks_redis(broker: str):
    """DESIGN §6: Redis knows of no claim here; the board's word is taken, a claim of unknown age is asked for."""
    with lease(broker, Pulse()):
        asked_at = time.monotonic()
        assert still_ours(WORKER, "tag", asked_at)
        assert not still_ours(WORKER, "tag")
        assert not still_ours(WORKER, "tag", asked_at - 3600)
        end = time.monotonic() + 2 * TTL_S
        wait_for(lambda: time.monotonic() > end, "two TTLs")
        assert still_ours(WORKER, "tag", asked_at)


@pytest.fixture
def another(broker: str) -> Iterator[None]:
    """A worker in a process of its own, which renews and reaps: without one nobody would end a lease."""
    code = (
        "import sys, threading; from gpu_mesh.settings import Settings; from workers.lease import Lease, Tick; "
        "from workers.pulse import Pulse; "
        "Lease(Settings(broker_url=sys.argv[1], lease_ttl_s=float(sys.argv[2])), 'gpu0@other', pulse=Pulse(), "
        "on_tick=lambda *, tends: None, on_lost=lambda: None).start(); print(flush=True); threading.Event().wait()"
    )
    with subprocess.Popen([sys.executable, "-c", code, broker, str(TTL_S)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.kill()


def test_a_loop_that_hangs_loses_the_lease(broker: str, another: None):
    """DESIGN §6: not renewed any more, the children ask; once it turns again, the loss is told and a new one begun."""
    pulse, covered = Pulse(), []
    with (
        connect(Settings(broker_url=broker)) as client,
        lease(broker, pulse, lambda: covered.append(BOARD.covers(time.monotonic()))),
    ):
        asked_at = time.monotonic()
        pulse.beat()
        assert still_ours(WORKER, "tag", asked_at)
        wait_for(lambda: _end_s(client) == 0, "the lease's end", 10 * TTL_S)
        assert not still_ours(WORKER, "tag", asked_at)
        assert covered == []
        pulse.beat()
        wait_for(lambda: covered, "the loss")
        wait_for(lambda: still_ours(WORKER, "tag", time.monotonic()), "a new lease")
        # The children knew before the jobs were dropped; what was claimed under the old one stays in doubt.
        assert covered == [False]
        assert not still_ours(WORKER, "tag", asked_at)


@pytest.mark.parametrize("leave", [Pulse.rest, Pulse.end])
def test_a_loop_that_is_left_does_not_hang(broker: str, leave: Callable[[Pulse], None]):
    """DESIGN §6: a worker that connects anew or stops keeps its lease."""
    pulse, lost = Pulse(), []
    with connect(Settings(broker_url=broker)) as client, lease(broker, pulse, lambda: lost.append(1)):
        pulse.beat()
        leave(pulse)
        end = time.monotonic() + 4 * TTL_S
        wait_for(lambda: time.monotonic() > end or _left_s(client) < 0, "four TTLs")
        assert _left_s(client) > 0
    assert lost == []


def test_a_loop_that_waits_for_redis_does_not_hang(tmp_path: Path):
    """DESIGN §6: Redis away for far longer than a loop may stand still: renewed when it is back, and the loop has a
    TTL's time to turn again."""
    pulse, lost, away = Pulse(), [], threading.Event()
    back = threading.Event()

    def on_tick(*, tends: bool) -> None:
        if away.is_set():  # as a claimer that waits for an answer
            back.wait(1.5 * TTL_S)

    with (
        running(RedisServer(tmp_path)) as server,
        lease(server.url, pulse, lambda: lost.append(1), on_tick),
        server.client() as client,
    ):
        pulse.beat()
        away.set()
        with server.frozen():
            end = time.monotonic() + 5 * TTL_S
            wait_for(lambda: time.monotonic() > end, "five TTLs")
            assert not BOARD.covers(time.monotonic())
        away.clear()
        back.set()
        until = time.time() + 1.3 * TTL_S
        wait_for(lambda: _end_s(client) > until, "renewals", 8 * TTL_S)
        pulse.beat()
        assert lost == []


def test_the_children_know_of_a_loss_before_anything_else(broker: str):
    """DESIGN §6: a lease that was taken from a living worker: what it covered is in doubt at once."""
    covered = []
    with connect(Settings(broker_url=broker)) as client:
        asked_at = time.monotonic() + 3600  # after any lease's beginning
        with lease(broker, Pulse(), lambda: covered.append(BOARD.covers(asked_at))):
            assert BOARD.covers(asked_at)
            leases.reap(client, worker=WORKER, max_deliveries=5)
            wait_for(lambda: covered, "the loss")
            wait_for(lambda: _left_s(client) > 0, "a new lease")
    assert covered == [False]


def test_a_lease_reaps_no_job_of_its_own(broker: str, redis_server: Address):
    """DESIGN §6: it began, but the answer was lost, and its worker claimed: what a predecessor held is taken once."""
    with connect(Settings(broker_url=broker)) as client, cutting_proxy(redis_server.port) as proxy:
        client.script_load(source("renew"))

        def claims_meanwhile(asked: bytes, answer: bytes) -> bool:
            if sha("renew").encode() not in asked or _end_s(client) == 0:
                return False
            if proxy.cuts < TRIES - 1:
                return True
            record = "internal:6\t1\t0\t1\t1\tnormal\t1\t\ttask"
            client.hset(keys.claims(WORKER), mapping={"tag": record, "=tag": "{}"})
            proxy.heal()
            return True

        proxy.cut(claims_meanwhile)
        url = redis_server.url.replace(f":{redis_server.port}/", f":{proxy.server_address[1]}/")
        with lease(url, Pulse()):
            wait_for(lambda: BOARD.covers(time.monotonic()), "the lease")
            assert proxy.cuts == TRIES
            assert claims.holds(client, WORKER, "tag")
        assert not claims.holds(client, WORKER, "tag")


def test_a_replaced_run_overwrites_no_checkpoint(broker: str):
    """F2: saved only while the claim is its worker's, in one step; it expires."""
    with connect(Settings(broker_url=broker)) as client:
        client.hset(keys.claims(WORKER), "tag", "claim")
        old = {"worker": WORKER, "tag": "tag", "expires_s": 60.0}
        assert checkpoints.save(client, "task", '{"step":1}', **old)
        client.hdel(keys.claims(WORKER), "tag")
        client.hset(keys.claims("gpu0@other"), "tag", "claim")
        assert checkpoints.save(client, "task", '{"step":2}', **{**old, "worker": "gpu0@other"})
        assert not checkpoints.save(client, "task", '{"step":9}', **old)
        assert checkpoints.load(client, "task") == '{"step":2}'
        assert 50 < client.ttl(keys.checkpoint("task")) <= 60
        assert checkpoints.drop(client, "task")
        assert checkpoints.load(client, "task") is None
        assert not checkpoints.drop(client, "task")
        assert not claims.holds(client, WORKER, "tag")


def test_a_worker_that_holds_nothing_only_renews(broker: str):
    """H9; but not the one that promotes for all, and not one that has a claim to let go of."""
    own = Settings(broker_url=broker, lease_ttl_s=10.0)
    with connect(own) as client:
        for tends, rests, expected in (
            (True, True, PROMOTE_EVERY_S),
            (False, False, PROMOTE_EVERY_S),
            (False, True, 2.0),
        ):
            client.delete(keys.LEASES, "gpumesh:tender")
            leases.renew(client, WORKER if tends else "another@n", 10.0, anew=True)
            found = Lease(
                own,
                WORKER,
                pulse=Pulse(),
                on_tick=lambda *, tends: None,
                on_lost=lambda: None,
                rests=[bool, lambda: True][rests],
            )
            found.start()
            assert found._pause_s() == expected
            found.stop()
