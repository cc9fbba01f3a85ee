"""A Redis at its memory limit: nodes stay known, notices go out, and what is ill claims nothing (DESIGN §9)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from gpu_mesh.domain.alerts import Alert, Level
from gpu_mesh.domain.announcing import Try
from gpu_mesh.services import drains
from gpu_mesh.store import alerts, cordons, keys, nodes, outbox

NODE = nodes.Node(name="n", role="compute", host="n", version="1", devices=())


@pytest.fixture
def filled(client: redis.Redis) -> Iterator[redis.Redis]:
    """With a node, an alert that waits for its channel, and two devices that may not claim until 100 s."""
    nodes.register(client, NODE, instance="one", ttl_s=10.0)
    outbox.announce(client)
    alerts.post(client, Alert(rule="redis", subject="mesh", level=Level.CRITICAL, text="full"))
    cordons.cordon(client, "gpu0@n", "health", why="off the bus", until=100.0)
    cordons.cordon(client, "gpu1@n", "drain", why="lunch", until=100.0)
    client.config_set("maxmemory", 1)
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        client.set("anything", 1)
    yield client
    client.config_set("maxmemory", 0)


def test_a_node_is_there_all_the_same(filled: redis.Redis):
    """N2: else all would count as gone, and a CPU take what needs a GPU."""
    nodes.register(filled, NODE, instance="one", ttl_s=10.0)


def test_what_was_posted_is_sent_once(filled: redis.Redis):
    """H6, H7: first of all that Redis is nearly full."""
    (notice,) = outbox.pending(filled)
    outbox.announce(filled)
    with outbox.alone(filled, "me", 10.0) as mine, outbox.alone(filled, "other", 10.0) as others:
        assert (mine, others) == (True, False)
        outbox.note(filled, {(notice.id, "channel"): Try(is_done=True)})
    assert outbox.tries(filled)[notice.id, "channel"].is_done
    outbox.finish(filled, [notice.id])
    assert not filled.exists(keys.ANNOUNCER, keys.TRIES, keys.OUTBOX)


def test_what_is_ill_stays_so_while_nobody_can_check(filled: redis.Redis):
    """F4: a check needs memory for its answers. A drain by hand ends in time."""
    drains.sweep(filled, 200.0)
    assert cordons.cordoned(filled) == {"gpu0@n": "off the bus"}
    filled.config_set("maxmemory", 0)
    drains.sweep(filled, 200.0)
    assert cordons.cordoned(filled) == {}
