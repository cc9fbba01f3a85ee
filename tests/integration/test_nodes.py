"""The registry of nodes (SPEC N1, N3; issue 2, Bad input: two nodes with one name)."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
import redis

from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.errors import NodeNameTaken
from gpu_mesh.settings import settings
from gpu_mesh.store import keys
from gpu_mesh.store.client import connect
from gpu_mesh.store.nodes import Node, all_nodes, forget_silent, instance_id, leave, register

#: Longer than any test.
TTL_S = 3600.0
#: Two processes of machines that are not this one.
ONE, OTHER = "machine-a/11/1.00", "machine-b/22/2.00"

#: A process with a clock of its own (`SKEW` seconds off) that registers and then waits.
REGISTRANT = """
import sys, time
skew, real = float(sys.argv[2]), time.time
time.time = lambda: real() + skew
from gpu_mesh.settings import settings
from gpu_mesh.store.client import connect
from gpu_mesh.store.nodes import Node, instance_id, register
with connect(settings()) as client:
    node = Node(name=sys.argv[1], role="compute", host="this-host", version="1")
    register(client, node, instance=instance_id(), ttl_s=3600)
print("registered", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def client(broker: str) -> Iterator[redis.Redis]:
    with connect(settings()) as found:
        yield found


def node(name: str = "office", host: str = "host-a") -> Node:
    gpu = Device(name="gpu0", node=name, kind=DeviceKind.FAKE, gpu_type="A40", memory_gb=40, labels={"site": "süd"})
    return Node(name=name, role="compute", host=host, version="1", devices=(gpu,), labels={"site": "süd"})


def age(client: redis.Redis, name: str, by_s: float) -> None:
    """As if the node had been silent for so long."""
    held = json.loads(str(client.hget(keys.NODES, name)))
    client.hset(keys.NODES, name, json.dumps({**held, "seen_at": held["seen_at"] - by_s}))


def registrant(name: str, skew_s: float = 0.0) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", REGISTRANT, name, str(skew_s)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == b"registered"
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.stdout.close()


def test_register_and_read_back(client: redis.Redis):
    """N1, N3: what a node says of itself is read back whole, and it is online at once."""
    register(client, node(), instance=ONE, ttl_s=TTL_S)
    (entry,) = all_nodes(client)
    assert entry.node == node()
    assert entry.online(1.0)
    assert not entry.left


def test_renewal_takes_what_is_new(client: redis.Redis):
    """N3: a renewal of the same instance replaces the registration and its time."""
    register(client, node(host="old"), instance=ONE, ttl_s=TTL_S)
    age(client, "office", 100)
    register(client, node(host="new"), instance=ONE, ttl_s=TTL_S)
    (entry,) = all_nodes(client)
    assert entry.node.host == "new"
    assert entry.silent_s < 10


def test_a_living_node_keeps_its_name(client: redis.Redis):
    """Issue 2, Bad input: NodeNameTaken names host, process and what to do; the holder stays."""
    register(client, node(host="host-a"), instance=ONE, ttl_s=TTL_S)
    with pytest.raises(NodeNameTaken) as caught:
        register(client, node(host="host-b"), instance=OTHER, ttl_s=TTL_S)
    for part in ("'office'", "host host-a", "process 11", "NODE_NAME", "stop the other"):
        assert part in str(caught.value)
    (entry,) = all_nodes(client)
    assert entry.node.host == "host-a"


def test_a_silent_nodes_name_is_free(client: redis.Redis):
    """N3: after the time to live another machine may take the name, not before."""
    register(client, node(host="host-a"), instance=ONE, ttl_s=60)
    age(client, "office", 50)
    with pytest.raises(NodeNameTaken):
        register(client, node(host="host-b"), instance=OTHER, ttl_s=60)
    age(client, "office", 15)
    register(client, node(host="host-b"), instance=OTHER, ttl_s=60)
    (entry,) = all_nodes(client)
    assert entry.node.host == "host-b"


@pytest.mark.parametrize("dead", [True, False])
def test_only_a_dead_process_is_displaced(client: redis.Redis, dead: bool):
    """A node that starts again after a crash takes its name back at once."""
    asked = []

    def is_dead_here(instance: str) -> bool:
        asked.append(instance)
        return dead

    register(client, node(host="host-a"), instance=ONE, ttl_s=TTL_S)
    if dead:
        register(client, node(host="host-b"), instance=OTHER, ttl_s=TTL_S, is_dead_here=is_dead_here)
    else:
        with pytest.raises(NodeNameTaken):
            register(client, node(host="host-b"), instance=OTHER, ttl_s=TTL_S, is_dead_here=is_dead_here)
    assert asked == [ONE]
    assert all_nodes(client)[0].node.host == ("host-b" if dead else "host-a")


def test_a_process_of_this_machine(client: redis.Redis):
    """A real one: while it lives its name is taken, with its process id; once killed it is displaced at once."""
    process = registrant("office")
    try:
        with pytest.raises(NodeNameTaken, match=f"host this-host, process {process.pid};"):
            register(client, node(host="next"), instance=instance_id(), ttl_s=TTL_S)
    finally:
        end(process)
    register(client, node(host="next"), instance=instance_id(), ttl_s=TTL_S)
    assert all_nodes(client)[0].node.host == "next"


def test_leaving(client: redis.Redis):
    """A node that says goodbye is offline at once, its name is free, and it may come back."""
    register(client, node(host="host-a"), instance=ONE, ttl_s=TTL_S)
    leave(client, "office", instance=ONE)
    (entry,) = all_nodes(client)
    assert entry.left
    assert not entry.online(TTL_S)
    assert entry.node == node(host="host-a")
    register(client, node(host="host-b"), instance=OTHER, ttl_s=TTL_S)
    (entry,) = all_nodes(client)
    assert (entry.node.host, entry.online(TTL_S)) == ("host-b", True)


def test_a_goodbye_of_another_changes_nothing(client: redis.Redis):
    """A late goodbye must not take the next holder offline, and one of nobody is no error."""
    register(client, node(), instance=OTHER, ttl_s=TTL_S)
    leave(client, "office", instance=ONE)
    leave(client, "nobody", instance=ONE)
    (entry,) = all_nodes(client)
    assert entry.online(TTL_S)


def test_forget_silent(client: redis.Redis):
    """Nodes silent for a week are dropped, and only those."""
    for name in ("gone", "away", "here"):
        register(client, node(name), instance=ONE, ttl_s=TTL_S)
    age(client, "gone", 8 * 86_400)
    age(client, "away", 6 * 86_400)
    assert forget_silent(client) == ["gone"]
    assert [entry.node.name for entry in all_nodes(client)] == ["away", "here"]
    assert forget_silent(client) == []


@pytest.mark.parametrize("skew_s", [-1e6, 1e6])
def test_redis_clock_counts(client: redis.Redis, skew_s: float):
    """DESIGN §5: a node with a wrong clock is neither offline nor for ever online."""
    process = registrant("office", skew_s)
    try:
        (entry,) = all_nodes(client)
        seconds, _ = client.time()
        assert abs(entry.seen_at - seconds) < 60
        assert entry.silent_s < 60
    finally:
        end(process)


CORRUPT = [
    "not JSON",
    "5",
    "null",
    '["a list"]',
    '{"instance": "x"}',
    '{"instance": "x", "seen_at": "soon", "node": {}}',
    '{"instance": "x", "seen_at": 1, "node": {"name": "office"}}',
    '{"instance": "x", "seen_at": 1, "node": {"name": "office", "devices": 3}}',
    '{"instance": "x", "seen_at": null, "node": null}',
]


@pytest.mark.parametrize("held", CORRUPT)
def test_a_corrupt_entry_breaks_nothing(client: redis.Redis, held: str, caplog: pytest.LogCaptureFixture):
    """It is left out with a warning that names it, and neither holds its name nor the others'."""
    client.hset(keys.NODES, "office", held)
    register(client, node("sound"), instance=ONE, ttl_s=TTL_S)
    with caplog.at_level(logging.WARNING):
        assert [entry.node.name for entry in all_nodes(client)] == ["sound"]
    (record,) = caplog.records
    assert "node office" in record.message
    assert record.__dict__["action"] == "read_node"
    leave(client, "office", instance=ONE)
    register(client, node("office"), instance=OTHER, ttl_s=TTL_S)
    assert [entry.node.name for entry in all_nodes(client)] == ["office", "sound"]


def test_a_living_entry_without_its_facts_still_holds_the_name(client: redis.Redis):
    """What a newer version wrote may lack what we read: no traceback, and no name taken from a living node."""
    register(client, node(), instance=ONE, ttl_s=TTL_S)
    held = json.loads(str(client.hget(keys.NODES, "office")))
    client.hset(keys.NODES, "office", json.dumps({**held, "instance": "of another form", "node": None}))
    with pytest.raises(NodeNameTaken, match="process of another form"):
        register(client, node(), instance=OTHER, ttl_s=TTL_S)


@pytest.mark.parametrize("machine", ['m"ach\\ine', "two\nlines", "grün/✓", "\x01\x7f", "a" * 5000, "[]{},:"])
def test_odd_characters_in_the_instance(client: redis.Redis, machine: str):
    """Whatever a machine calls itself, its registration is JSON and its own."""
    instance = f"{machine}/7/1.00"
    for _ in range(2):
        register(client, node(), instance=instance, ttl_s=TTL_S)
    assert json.loads(str(client.hget(keys.NODES, "office")))["instance"] == instance
    with pytest.raises(NodeNameTaken, match="process 7;"):
        register(client, node(), instance=ONE, ttl_s=TTL_S)
    leave(client, "office", instance=instance)
    assert not all_nodes(client)[0].online(TTL_S)


def test_survives_a_script_flush(client: redis.Redis):
    """DESIGN §9: scripts are loaded again."""
    register(client, node(), instance=ONE, ttl_s=TTL_S)
    client.script_flush()
    register(client, node(), instance=ONE, ttl_s=TTL_S)
    assert len(all_nodes(client)) == 1
