"""The transport of a connection that is no mesh worker's: kombu's, but for messages of the mesh's queues (DESIGN §4).

kombu's and Celery's own suites were run against it by hand; what they found is kept here.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kombu
import pytest
from kombu.exceptions import OperationalError
from kombu.transport import TRANSPORT_ALIASES, resolve_transport
from kombu.transport import redis as stock
from redis_servers import RedisServer, running
from waiting import wait_for

from gpu_mesh import app
from gpu_mesh.settings import settings
from gpu_mesh.store import keys
from gpu_mesh.store.client import connect
from gpu_mesh.store.embedded import Address
from gpu_mesh.transport import SentinelTransport, Transport

LIMIT_S = 10
STOCK = "kombu.transport.redis:Transport"
OURS = TRANSPORT_ALIASES["redis"]
URLS = [
    "redis://:secret@db:6380/3",
    "rediss://user:secret@db:6380/3?ssl_cert_reqs=required",
    "redis+socket:///run/redis.sock?virtual_host=3",
    "sentinel://:secret@a:26379/0;sentinel://:secret@b:26379/0",
    "redis://a:6379/0;redis://b:6379/0",
]


@pytest.fixture
def plain(broker: str, redis_server: Address) -> Any:
    """Makes connections without the mesh's options, by the named transport."""
    return lambda transport: kombu.Connection(redis_server.url, transport=transport, transport_options={"sep": ":"})


@pytest.fixture
def mesh(broker: str) -> Iterator[Any]:
    """A connection as the mesh's app makes them."""
    with app.connection_for_write() as connection:
        yield connection


def commands() -> set[str]:
    """Names of the commands that Redis was sent since the last reset."""
    with connect(settings()) as client:
        return {name.removeprefix("cmdstat_") for name in client.info("commandstats")}


def indexed(name: str) -> int:
    """How many messages of a list the publishing script put there."""
    with connect(settings()) as client:
        return int(client.hget(f"{keys.PREFIX}list:{name}", "top") or 0)


def waiting(name: str) -> int:
    with connect(settings()) as client:
        return int(client.llen(name))


class TestStock:
    """What kombu does, with its transport and with ours."""

    def scenario(self, connection: Any) -> list[Any]:
        """Simple queues, priorities, fanout, topics, batches, purge: what was received."""
        received: list[Any] = []

        def take(body: Any, message: Any) -> None:
            received.append(body)
            message.ack()

        simple = connection.SimpleQueue("simple")
        for number in range(3):
            simple.put({"number": number})
        first = simple.get(timeout=LIMIT_S)
        first.requeue()
        received += [simple.get(timeout=LIMIT_S).payload for _ in range(simple.qsize())]
        received.append(simple.clear())
        simple.close()

        producer = connection.Producer()
        news, topics = kombu.Exchange("news", "fanout"), kombu.Exchange("topics", "topic")
        queues = [
            kombu.Queue("reader", news),
            kombu.Queue("gpus", topics, routing_key="gpu.*"),
        ]
        with connection.Consumer(queues, callbacks=[take]):
            # Subscribes before anything is broadcast.
            connection.default_channel.connection.cycle.on_poll_start()
            wait_for(lambda: connection.default_channel.subclient.subscribed, "the subscription")
            producer.publish("gpu", exchange=topics, routing_key="gpu.hot")
            producer.publish("cpu", exchange=topics, routing_key="cpu.hot")
            while "gpu" not in received:
                connection.drain_events(timeout=LIMIT_S)
            producer.publish("all", exchange=news)
            while "all" not in received:
                connection.drain_events(timeout=LIMIT_S)
        ranked = connection.SimpleQueue("ranked")
        with producer.batch(max_size=2):
            for priority in (9, 0, 3):
                producer.publish(priority, routing_key="ranked", priority=priority)
        received += [ranked.get(timeout=LIMIT_S).payload for _ in range(ranked.qsize())]
        ranked.close()
        return received

    def test_same_commands_same_messages(self, plain: Any):
        """DESIGN §4: without the mesh's options ours sends Redis the same commands and receives the same."""
        seen: dict[str, tuple[list[Any], set[str]]] = {}
        for transport in (STOCK, OURS):
            with connect(settings()) as client:
                client.flushdb()
                client.config_resetstat()
            with plain(transport) as connection:
                received = self.scenario(connection)
            seen[transport] = received, commands()
        assert seen[OURS] == seen[STOCK]
        assert seen[OURS][0][-3:] == [0, 3, 9]
        assert "script" not in seen[OURS][1]

    def test_ensure(self, plain: Any):
        """`Connection.ensure` sees Redis's errors as the operational ones that it retries."""
        with plain(OURS) as connection:
            tries: list[int] = []

            def fail_once() -> str:
                tries.append(1)
                if len(tries) == 1:
                    raise connection.connection_errors[0]("away")
                return "done"

            assert connection.ensure(connection, fail_once, max_retries=2, interval_start=0)() == "done"
            with pytest.raises(OperationalError):
                connection.ensure(connection, self.away(connection), max_retries=1, interval_start=0)()
        assert len(tries) == 2

    @staticmethod
    def away(connection: Any) -> Any:
        def fail() -> None:
            raise connection.connection_errors[0]("away")

        return fail


class TestAliases:
    @pytest.mark.parametrize("scheme", ["redis", "rediss", "sentinel"])
    def test_ours_is_a_superset(self, scheme: str):
        """DESIGN §4: every Redis scheme resolves to ours, a subclass of kombu's that batches as it does."""
        ours = resolve_transport(scheme)
        kombus = stock.SentinelTransport if scheme == "sentinel" else stock.Transport
        assert ours is (SentinelTransport if scheme == "sentinel" else Transport)
        assert issubclass(ours, kombus)
        assert issubclass(ours.Channel, kombus.Channel)
        assert set(kombus.Channel.from_transport_options) < set(ours.Channel.from_transport_options)

    def test_as_uri(self):
        """DESIGN §4: addresses read as they do without the mesh, secrets masked (Flower parses them)."""
        script = "import kombu, sys; [print(kombu.Connection(url).as_uri()) for url in sys.argv[1:]]"
        done = subprocess.run(
            [sys.executable, "-c", script, *URLS], capture_output=True, text=True, check=True, timeout=LIMIT_S
        )
        ours = [kombu.Connection(url) for url in URLS]
        assert [connection.as_uri() for connection in ours] == done.stdout.split()
        assert "secret" not in done.stdout
        assert all(isinstance(found.transport, Transport | SentinelTransport) for found in ours)

    def test_imported_after_a_connection(self):
        """An application that connected before it imports the mesh gets ours from then on, not what kombu remembers."""
        script = (
            "import kombu; kombu.Connection('redis://').transport;"
            "from gpu_mesh.transport import install; install();"
            "print(type(kombu.Connection('redis://').transport).__module__)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=LIMIT_S
        )
        assert done.stdout.strip() == "gpu_mesh.transport"

    def test_several_addresses(self, broker: str, redis_server: Address, free_port: int):
        """DESIGN §4: of several addresses, one that is away is passed over."""
        with kombu.Connection(f"redis://127.0.0.1:{free_port}/0;{redis_server.url}") as connection:
            connection.ensure_connection(max_retries=3, interval_start=0)
            queue = connection.SimpleQueue("second")
            queue.put("there")
            assert queue.get(timeout=LIMIT_S).payload == "there"
            queue.close()


class TestBatch:
    """DESIGN §5: kombu's batch publishing, which cannot heal NOSCRIPT inside its pipeline."""

    def publish(self, mesh: Any, *sizes: int, between: Any = None) -> None:
        """Batches of these sizes into `revenue`, in one producer's batch; `between` is called between them."""
        producer = mesh.Producer()
        assert producer.supports_batch_publish
        with producer.batch() as batch:
            for size in sizes:
                for number in range(size):
                    producer.publish([[number], {}, {}], routing_key="revenue", priority=0, headers={"id": str(number)})
                if between is not None:
                    between()
                batch.flush()

    def test_by_the_script(self, mesh: Any):
        """Every message is indexed, in its order."""
        self.publish(mesh, 5)
        assert (waiting("revenue"), indexed("revenue")) == (5, 5)
        queue = mesh.SimpleQueue(app.amqp.queues["revenue"])
        assert [queue.get(timeout=LIMIT_S).payload[0][0] for _ in range(5)] == list(range(5))
        queue.close()

    def test_wakes_an_idle_worker(self, mesh: Any):
        """One that waits is woken by the batch, not by its next look."""
        with connect(settings()) as client:
            client.zadd(f"{keys.PREFIX}idle:revenue", {"gpu0@n": 1})
            self.publish(mesh, 1)
            assert client.exists(f"{keys.PREFIX}wake:gpu0@n")

    def test_survives_script_flush(self, mesh: Any):
        """SCRIPT FLUSH before each of its flushes loses nothing and indexes all."""
        with connect(settings()) as client:
            self.publish(mesh, 2, 3, between=client.script_flush)
        assert (waiting("revenue"), indexed("revenue")) == (5, 5)

    def test_full_redis(self, tmp_path: Path):
        """A Redis that is full refuses the batch with kombu's error, and holds none of its messages."""
        with running(RedisServer(tmp_path / "full")) as server, server.client() as client:
            options = {**app.conf.broker_transport_options}
            with kombu.Connection(server.url, transport_options=options) as mesh:
                self.publish(mesh, 1)
                client.config_set("maxmemory", 1)
                with pytest.raises(kombu.exceptions.BatchPublishError) as caught:
                    self.publish(mesh, 2)
            client.config_set("maxmemory", 0)
            assert client.llen("revenue") == 1
        assert "OOM" in str(caught.value.__cause__)


def test_queue_that_expires(mesh: Any):
    """A queue that someone declares with x-expires lives as long with ours: each message renews its lists."""
    with mesh.channel() as channel:
        queue = kombu.Queue("revenue", routing_key="revenue", expires=60)
        queue(channel).declare()
        kombu.Producer(channel).publish("soon gone", routing_key="revenue", priority=0)
    with connect(settings()) as client:
        assert 0 < client.pttl("revenue") <= 60_000


@pytest.mark.parametrize("header", ["revenue", [1], {"needs": [1]}], ids=repr)
def test_a_malformed_header_is_not_indexed_as_needing_nothing(mesh: Any, header: Any):
    """DESIGN §5: sent through our transport it lies as a stranger's does, for a look to put it away."""
    with mesh.channel() as channel:
        producer = kombu.Producer(channel)
        producer.publish([[], {}, {}], routing_key="revenue", priority=0, headers={"id": "a", "mesh": {"needs": {}}})
        producer.publish([[], {}, {}], routing_key="revenue", priority=0, headers={"id": "b", "mesh": header})
    assert (waiting("revenue"), indexed("revenue")) == (2, 1)
