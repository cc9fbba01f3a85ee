"""What the control worker keeps in order without beat: realtime work and internal work (SPEC R4, Q3, H9)."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis
from celery import states
from redis_servers import RedisServer
from sample_tasks import add
from waiting import wait_for

from gpu_mesh import app
from gpu_mesh.domain.availability import Watch
from gpu_mesh.domain.queues import CONTROL_QUEUE, GPU_QUEUES, list_names
from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.settings import Settings, settings
from gpu_mesh.store import availability as store
from gpu_mesh.store import gates, keys, leases, queues, server
from gpu_mesh.store import windows as plans
from gpu_mesh.store.client import connect
from gpu_mesh.tasks import control
from workers.keeper import FAILS, Keeper, Keeping

pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")


@pytest.fixture
def client(broker: str) -> Iterator[redis.Redis]:
    app.__dict__.pop("_notices", None)
    app._checked_at = float("-inf")
    with connect(settings()) as found:
        yield found
    app.__dict__.pop("_notices", None)


@pytest.fixture
def keeper(broker: str) -> Iterator[Keeper]:
    found = Keeper(app, settings())
    yield found
    found._disconnect()
    found._client.close()


def nobody_is_there(client: redis.Redis) -> None:
    """For longer than the patience, as the looks before this one saw."""
    now = server.now(client)
    store.set_watch(client, Watch(now - 5.0, now - 60.0))


def sent(client: redis.Redis) -> list[object]:
    """Names of the tasks that wait in the mesh's own queue."""
    return [queues.headers_of(raw)["task"] for name in list_names(CONTROL_QUEUE) for raw in client.lrange(name, 0, -1)]


def in_use(client: redis.Redis) -> None:
    """Peak hours, and the only device does interactive work."""
    plans.set_plan(client, plans.Plan("00:00-24:00", "UTC", "lead"))
    leases.renew(client, "gpu0@n1", 3600.0, anew=True)
    record = "\t".join(["customer:3", "1", "0", "1", "1", "normal", "1", "", "id"])
    client.hset(keys.claims("gpu0@n1"), mapping={"tag": record, "=tag": "envelope"})


def test_what_waits_is_failed_by_a_task(client: redis.Redis, keeper: Keeper):
    """R4: an application's error callbacks run in the control worker's child, never in its parent."""
    waiting = add.apply_async((1, 1), queue="ai-realtime")
    nobody_is_there(client)
    keeper.look()
    assert store.outage(client) is not None
    assert (sent(client), waiting.state) == ([FAILS], states.PENDING)
    control.availability.run()
    assert waiting.state == states.FAILURE


def test_what_somebody_left_half_done_too(client: redis.Redis, keeper: Keeper):
    """R4: a looker died between setting a message aside and failing it, and the devices are back."""
    leases.renew(client, "gpu0@n1", 3600.0, anew=True)
    waiting = add.apply_async((1, 1), queue="ai-realtime")
    assert store.set_aside(client, "ai-realtime")
    keeper.look()
    assert sent(client) == [FAILS]
    control.availability.run()
    assert waiting.state == states.FAILURE


def test_no_task_where_there_is_nothing_to_fail(client: redis.Redis, keeper: Keeper):
    """H9: neither in an outage without work, nor for work that somebody can do, nor while another one looks."""
    nobody_is_there(client)
    keeper.look()
    assert store.outage(client) is not None
    add.apply_async((1, 1), queue="internal")
    keeper.look()
    with store.alone(client):
        add.apply_async((1, 1), queue="ai-realtime", countdown=0.001)
        keeper.look()
    leases.renew(client, "gpu0@n1", 3600.0, anew=True)
    keeper.look()
    assert sent(client) == []
    assert store.outage(client) is None


def test_internal_work_waits(client: redis.Redis, keeper: Keeper):
    """Q3, also where what is looked at before it is unreadable: the log says so."""
    in_use(client)
    client.hset(keys.WATCH, "not", "a string")
    keeper.look()
    assert [(gate.queue, gate.reason) for gate in gates.all_gates(client)] == [("internal", "usage")]


def test_redis_away_is_quiet_and_it_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """DESIGN §9: nobody is told each second of what the lease tells; with Redis it is back; a stop ends it."""
    caplog.set_level(logging.INFO)
    redis_server = RedisServer(tmp_path, "maxmemory 64mb")
    redis_server.start()
    own = Keeper(app, Settings(broker_url=redis_server.url), every_s=0.05)
    own.start()
    try:
        with redis_server.client() as client:
            wait_for(lambda: client.exists(keys.WATCH), "a look")
            redis_server.stop()
            with pytest.raises(BrokerUnavailable):
                Keeper(app, Settings(broker_url=redis_server.url)).look()
            redis_server.start()
            client.delete(keys.WATCH)
            wait_for(lambda: client.exists(keys.WATCH), "a look at the Redis that is back")
    finally:
        own.stop()
        redis_server.stop()
    assert not own._thread.is_alive()
    assert [record for record in caplog.records if record.name == "workers.keeper"] == []


def test_only_the_control_worker_has_one():
    for consumed, kept in (((CONTROL_QUEUE,), True), (GPU_QUEUES, False)):
        worker = SimpleNamespace(
            app=SimpleNamespace(amqp=SimpleNamespace(queues=SimpleNamespace(consume_from=consumed)))
        )
        assert Keeping(worker).include_if(worker) is kept


#: Prints what a look imports beyond what was prepared.
LOOKS = f"""
import sys
from gpu_mesh.celery import app
app.loader.import_default_modules()
app.finalize()
from workers.keeper import Keeper
from gpu_mesh.settings import settings
keeper = Keeper(app, settings())
keeper.look()  # as the lease and the loop do before: a connection
keeper.prepare()
before = set(sys.modules)
keeper._usage_at = float("-inf")
keeper._client.lpush({keys.REFUSED!r}, "{{}}")
keeper.look()
print(*sorted(set(sys.modules) - before), sep=",")
"""


def test_nothing_is_imported_in_its_thread(client: redis.Redis):
    """engines/importing: a pool child that is forked in the middle of an import would wait for ever."""
    in_use(client)
    ran = subprocess.run([sys.executable, "-c", LOOKS], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout.strip()) == (0, ""), ran.stderr
    assert sent(client) == [FAILS]
    assert gates.all_gates(client)
