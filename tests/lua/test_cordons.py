"""Cordons: who claims nothing, why, and what is to become of what it runs (SPEC F4; DESIGN §5, §8)."""

from __future__ import annotations

import pytest
from claiming import Device, send

from gpu_mesh.errors import InvalidValue
from gpu_mesh.store import claims, cordons, holds, keys
from gpu_mesh.store.scripts import script


@pytest.mark.parametrize(
    "name", ["*", "", "=looked", "!x", "+x", ":x", "a@b@c", "@x", "x@", "**", "a b", "*@x", "x\n", "a>b"]
)
def test_a_name_that_could_mean_another_is_refused(client, name):
    for call in (lambda: cordons.cordon(client, name, "drain", why="why"), lambda: cordons.lift(client, name, "drain")):
        with pytest.raises(InvalidValue, match=r"^scope="):
            call()
    assert client.keys("*") == []


def test_each_reason_holds_until_it_is_lifted(client, device):
    """An operator's drain and an illness end apart from each other."""
    tag = send(client)
    assert cordons.cordon(client, "node", "drain", why="card needed", by="ann")
    assert cordons.cordon(client, "node", "health", why="engine is silent")
    assert not cordons.cordon(client, "node", "health", why="engine is still silent")
    assert device.claim() == claims.Refused("card needed; engine is still silent")
    assert cordons.lift(client, "node", "drain")
    assert not cordons.lift(client, "node", "drain")
    assert device.claim() == claims.Refused("engine is still silent")
    assert cordons.lift(client, "node", "health")
    assert device.claim().tag == tag
    assert client.exists(keys.CORDONS) == 0
    assert cordons.cordoned(client) == {}


def test_the_account_of_them(client):
    cordons.cordon(client, "gpu0@node", "drain", why="for ann", by="ann@desk", until=2e9, yield_s=60.0)
    first = cordons.all_cordons(client)[0].since
    cordons.cordon(client, "gpu0@node", "drain", why="for bob", by="bob@desk")
    told = cordons.all_cordons(client)
    assert told == [cordons.Cordon(name="gpu0@node", reason="drain", since=first, by="bob@desk", why="for bob")]
    assert cordons.cordoned(client) == {"gpu0@node": "for bob"}
    assert cordons.is_cordoned("gpu0@node", {"node": "why"})
    assert not cordons.is_cordoned("gpu1@node", {"gpu0@node": "why"})


def test_one_with_an_end_is_lifted_then_unless_it_was_put_off(client):
    cordons.cordon(client, "a", "drain", why="lunch", until=100.0)
    cordons.cordon(client, "b", "drain", why="evening", until=200.0)
    cordons.cordon(client, "c", "drain", why="for good")
    assert [one.name for one in cordons.lift_ended(client, 99.9)] == []
    assert [one.name for one in cordons.lift_ended(client, 100.0)] == ["a"]
    assert cordons.cordoned(client) == {"b": "evening", "c": "for good"}


def test_an_end_that_was_put_off_while_it_was_looked_at_holds(client):
    """Whoever sweeps has read the old end, and lifts nothing by it."""
    cordons.cordon(client, "a", "drain", why="lunch", until=100.0)
    seen = client.hget(keys.CORDONS, "drain@a")
    cordons.cordon(client, "a", "drain", why="all day", until=300.0)
    assert script(client, "cordon")(args=["a", "drain", "", "", "", seen]) == 0
    assert cordons.lift_ended(client, 150.0) == []
    assert cordons.cordoned(client) == {"a": "all day"}
    assert [one.name for one in cordons.lift_ended(client, 300.0)] == ["a"]


@pytest.mark.parametrize("number", range(8))
def test_of_several_times_to_yield_the_shortest_holds(client, number):
    """In whichever order Redis has them."""
    name = f"gpu{number}@node"
    cordons.cordon(client, name, "drain", why="card needed", yield_s=60.0)
    cordons.cordon(client, name, "health", why="off the bus", yield_s=5.0)
    cordons.cordon(client, name, "other", why="whatever", yield_s=30.0)
    assert holds.closed_to(client, name).leave == holds.Leave(5.0, "off the bus")


def test_an_idle_device_that_is_cordoned_is_woken_for_nothing(client, device):
    """A publish wakes one worker: not one that may not claim."""
    other = Device(client, "gpu1@node").start()
    for one in (device, other):
        assert one.claim() is None
    cordons.cordon(client, device.worker, "drain", why="card needed")
    assert client.zrange("gpumesh:idle:internal", 0, -1) == [other.worker]
    cordons.cordon(client, "node", "drain", why="all of it")
    assert client.keys("gpumesh:idle:*") == []


def test_the_mesh_is_looked_after_from_a_node_that_is_drained(client, device):
    """Checks, alerts and the ends of drains are the control worker's: draining its node must not stop them."""
    control = Device(client, "control@node", queues=("control",)).start()
    assert control.claim() is None
    cordons.cordon(client, "node", "drain", why="card needed", yield_s=5.0)
    assert client.zrange("gpumesh:idle:control", 0, -1) == ["control@node"]
    assert holds.closed_to(client, "control@node").leave is None
    tag = send(client, queue="control")
    claimed = control.claim()
    assert isinstance(claimed, claims.Claimed)
    assert claimed.tag == tag
    assert isinstance(device.claim(), claims.Refused)
    held = cordons.cordoned(client)
    assert not cordons.is_cordoned("control@node", held)
    assert cordons.is_cordoned("cpu@node", held)
    cordons.cordon(client, "control@node", "drain", why="it alone")
    assert isinstance(control.claim(), claims.Refused)


def test_what_runs_is_to_yield_where_the_cordon_says_so(client, device):
    """SPEC F4. The shortest time of several; a worker's own before its node's."""
    assert holds.closed_to(client, device.worker).leave is None
    cordons.cordon(client, "node", "drain", why="card needed")
    assert holds.closed_to(client, device.worker).leave is None
    cordons.cordon(client, "node", "health", why="off the bus", yield_s=5.0)
    cordons.cordon(client, "node", "drain", why="card needed", yield_s=60.0)
    assert holds.closed_to(client, device.worker).leave == holds.Leave(5.0, "off the bus")
    cordons.lift(client, "node", "health")
    assert holds.closed_to(client, device.worker).leave == holds.Leave(60.0, "card needed")
    cordons.lift(client, "node", "drain")
    assert holds.closed_to(client, device.worker).leave is None


def test_what_is_spoilt_by_hand_stops_nobody(client, device):
    client.hset(keys.CORDONS, mapping={"drain@a": "no json", "nonsense": "x", "health@b": "[1]", "!@c": "x"})
    assert [(one.name, one.until) for one in cordons.all_cordons(client)] == [("a", None), ("b", None)]
    assert cordons.cordon(client, "a", "health", why="ill")
    assert cordons.lift(client, "a", "health")


def test_a_redis_that_is_full_lifts_one(client):
    """DESIGN §9: the first write needs no memory."""
    cordons.cordon(client, "node", "drain", why="card needed")
    client.config_set("maxmemory", "1")
    try:
        assert cordons.lift(client, "node", "drain")
    finally:
        client.config_set("maxmemory", "0")
