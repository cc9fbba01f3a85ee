"""The wire contract: stock outside (DESIGN §4)."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kombu
import pytest
from canvas_tasks import at, heavy, travel
from celery import group
from sample_tasks import add, note
from stock_app import STOCK_BROKER, stock_app
from two_gpus import A40, RTX_4090, lists, purge, two_gpus
from waiting import wait_for

from gpu_mesh import app
from gpu_mesh.domain.queues import GPU_QUEUES
from gpu_mesh.settings import settings
from gpu_mesh.store.client import connect
from gpu_mesh.store.embedded import Address

#: How long any of these may take, s.
LIMIT_S = 20


@pytest.fixture(scope="module")
def workers(empty_redis: Address, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with two_gpus(tmp_path_factory.mktemp("wire")) as log:
        yield log


@pytest.fixture
def served(workers: Path) -> Iterator[Path]:
    yield workers
    purge()


@pytest.fixture
def stock(redis_server: Address) -> Iterator[Any]:
    """Celery as it comes."""
    with stock_app(redis_server.url) as plain:
        yield plain


def envelopes(name: str) -> list[dict[str, Any]]:
    """What the Redis list holds, in the order it is taken."""
    with connect(settings()) as client:
        return [json.loads(raw) for raw in reversed(client.lrange(name, 0, -1))]


@pytest.mark.usefixtures("broker")
class TestNothingConsumes:
    """These come before the module's workers start."""

    def test_one_list_for_each_queue_and_band(self):
        """DESIGN §4, Q4: `ai-batch`, `:3`, `:6`, `:9`, and no other list."""
        for priority in range(11):
            add.apply_async((1, 1), queue="ai-batch", priority=priority)
        assert lists() == {"ai-batch": 3, "ai-batch:3": 2, "ai-batch:6": 3, "ai-batch:9": 3}

    def test_every_queue_by_name(self):
        """Q1: five queues; a task of normal priority waits in step 6."""
        for queue in GPU_QUEUES:
            add.apply_async((1, 1), queue=queue)
        assert lists() == {f"{queue}:6": 1 for queue in GPU_QUEUES}

    def test_pushed_left_taken_right(self):
        """DESIGN §4: the oldest is at the right end."""
        sent = [add.delay(number, 0) for number in range(3)]
        with connect(settings()) as client:
            held = [json.loads(raw)["headers"]["id"] for raw in client.lrange("internal:6", 0, -1)]
        assert held == [result.id for result in reversed(sent)]

    def test_envelope_is_stock(self):
        """DESIGN §4: the JSON envelope of kombu's virtual transports, with a JSON body."""
        sent = add.apply_async((2,), {"y": 3}, business="revenue", priority=9)
        (envelope,) = envelopes("revenue")
        assert set(envelope) == {"body", "content-encoding", "content-type", "headers", "properties"}
        assert (envelope["content-type"], envelope["content-encoding"]) == ("application/json", "utf-8")
        args, kwargs, embed = json.loads(base64.b64decode(envelope["body"]))
        assert (args, kwargs) == ([2], {"y": 3})
        assert set(embed) == {"callbacks", "errbacks", "chain", "chord"}
        properties = envelope["properties"]
        assert properties["delivery_info"] == {"exchange": "", "routing_key": "revenue"}
        assert (properties["priority"], properties["correlation_id"]) == (0, sent.id)
        assert envelope["headers"]["task"] == "sample_tasks.add"

    def test_mesh_header(self):
        """DESIGN §3: class, priority, needs and sent_at travel in the header `mesh`, checked and complete."""
        before = time.time()
        add.apply_async((1, 1), business="customer", priority=7, memory_gb=12, gpu_type="RTX 4090", epochs=3)
        (envelope,) = envelopes("customer:3")
        mesh = envelope["headers"]["mesh"]
        assert before - 0.01 <= mesh.pop("sent_at") <= time.time() + 0.01
        assert mesh == {
            "v": 1,
            "class": "customer",
            "priority": 7,
            "needs": {"memory_gb": 12.0, "gpu_type": "RTX 4090"},
        }

    def test_map_goes_as_the_task_it_repeats(self):
        """P1, Q7: queue and needs that a task declares hold for its `map`, `starmap` and `chunks` too."""
        heavy.map([1, 2]).apply_async()
        heavy.starmap([(1,), (2,)]).apply_async()
        heavy.chunks([(1,), (2,)], 1).apply_async()
        assert lists() == {"customer:6": 4}
        assert {str(found["headers"]["mesh"]["needs"]) for found in envelopes("customer:6")} == {
            str({"memory_gb": 30.0})
        }

    def test_kombu_reads_it(self, redis_server: Address):
        """DESIGN §4: any Celery client works unchanged: kombu takes the message and decodes it."""
        add.apply_async((2, 3), queue="ai-batch", priority=1)
        options = {"sep": ":", "priority_steps": [0, 3, 6, 9]}
        with kombu.Connection(redis_server.url, transport_options=options) as connection:
            queue = connection.SimpleQueue("ai-batch")
            message = queue.get(timeout=LIMIT_S)
            message.ack()
            queue.close()
        assert message.payload[:2] == [[2, 3], {}]
        assert message.headers["mesh"]["class"] == "ai-batch"
        assert lists() == {}

    def test_stock_worker_runs_it(self, redis_server: Address, tmp_path: Path):
        """DESIGN §4: a plain Celery worker takes our messages, urgent bands first, and the caller gets the result."""
        path = str(tmp_path / "order")
        note.apply_async((path, "low"), queue="internal", priority=0)
        note.apply_async((path, "critical"), queue="internal", priority=10)
        last = add.apply_async((2, 3), queue="internal", priority=0)
        command = "worker --pool=solo --queues=internal --without-mingle --without-gossip --without-heartbeat"
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "stock_app", *command.split(), "--loglevel=ERROR"],
            env={**os.environ, STOCK_BROKER: redis_server.url, "C_FORCE_ROOT": "true"},
        )
        try:
            assert last.get(LIMIT_S) == 5
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(LIMIT_S)
        assert Path(path).read_text().split() == ["critical", "low"]


class TestServed:
    def test_stock_producer(self, served: Path, stock: Any):
        """DESIGN §4: a message without our header is run by our workers, and counts as normal."""
        assert stock.send_task("sample_tasks.add", (2, 3), queue="internal").get(LIMIT_S) == 5
        sent = stock.send_task("canvas_tasks.travel", ([],), queue="ai-batch", priority=3)
        assert sent.get(LIMIT_S) == [["ai-batch", 3]]

    # Stock Celery has its own mind on a task that declares its queue.
    @pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")
    def test_stock_canvas(self, served: Path, stock: Any):
        """A chain that a stock producer began goes on in our workers."""
        first = stock.signature("sample_tasks.add", (1, 1)).set(queue="revenue")
        second = stock.signature("sample_tasks.add", (3,)).set(queue="customer")
        assert (first | second).apply_async().get(LIMIT_S) == 5

    def test_pickle_is_refused(self, served: Path, stock: Any, tmp_path: Path):
        """DESIGN §4: a pickled message is neither loaded nor run, and the workers live on."""
        loaded, ran = tmp_path / "loaded", tmp_path / "ran"

        class Evil:
            def __reduce__(self):
                return (os.mkdir, (str(loaded),))

        before = {worker: parent(worker) for worker in (RTX_4090, A40)}
        for _ in range(4):
            stock.send_task("sample_tasks.note", (str(ran), Evil()), queue="revenue", serializer="pickle")
        wait_for(lambda: not lists(), "the workers to take the pickled messages")
        wait_for(lambda: served.read_text().count("Refusing to deserialize") >= 4, "four refusals in the log")
        assert {worker: parent(worker) for worker in (RTX_4090, A40)} == before
        assert not loaded.exists()
        assert not ran.exists()

    def test_our_own_refuse_pickle(self, served: Path):
        """An application that asks for pickle does not get its task run either."""
        add.apply_async((1, 1), serializer="pickle")
        wait_for(lambda: not lists(), "the workers to take the pickled message")
        assert set(group(at.s() for _ in range(4))().get(LIMIT_S)) <= {RTX_4090, A40}

    def test_unknown_task(self, served: Path, stock: Any):
        """A message no worker can run ends no worker."""
        stock.send_task("nobody.knows", (1,), queue="revenue")
        assert travel.delay().get(LIMIT_S) == [["internal", 6]]
        wait_for(lambda: not lists(), "the unknown task to be taken")


def parent(worker: str) -> int:
    """Process id of a worker."""
    stats = wait_for(lambda: app.control.inspect([worker], timeout=2).stats(), f"{worker} to answer")
    return int(stats[worker]["pid"])
