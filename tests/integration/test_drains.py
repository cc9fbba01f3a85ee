"""`gpu-mesh drain` and `undrain`, and why a task waits for what is drained (issue 6; SPEC H2, F4)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result
from sample_tasks import add

from gpu_mesh import app
from gpu_mesh.cli.root import root
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.services import drains, lookup
from gpu_mesh.settings import settings
from gpu_mesh.store import cordons, holds, nodes, server
from gpu_mesh.store.client import connect


@pytest.fixture
def client(broker: str) -> Iterator[redis.Redis]:
    """Two nodes are online, one with two devices."""
    app._checked_at = float("-inf")
    with connect(settings()) as found:
        for name, count in (("office", 2), ("cellar", 1)):
            devices = tuple(
                Device(name=f"gpu{i}", node=name, kind=DeviceKind.FAKE, gpu_type="RTX 4090", memory_gb=24.0)
                for i in range(count)
            )
            node = nodes.Node(name=name, role="compute", host=name, version="1", devices=devices)
            nodes.register(found, node, instance=f"{name}/1/1", ttl_s=20.0)
        yield found


def run(*words: str) -> Result:
    return CliRunner().invoke(root, list(words))


def test_a_device_for_the_afternoon(client: redis.Redis):
    """Its end comes by itself, whoever sweeps."""
    done = run("drain", "gpu1@office", "--until", "2h", "--why", "training\nby hand", "--by", "ann")
    assert done.exit_code == 0
    assert done.output.startswith("gpu1@office is drained until ")
    [held] = cordons.all_cordons(client)
    assert (held.by, held.yield_s) == ("ann", None)
    assert held.why.startswith("drained by ann until ")
    assert held.why.endswith(": training by hand")
    now = server.now(client)
    assert held.until == pytest.approx(now + 7200, abs=60)
    drains.sweep(client, now + 7000)
    assert cordons.cordoned(client)
    drains.sweep(client, now + 7300)
    assert cordons.cordoned(client) == {}


def test_a_node_until_it_is_undrained(client: redis.Redis):
    assert run("drain", "office").output == "office is drained until `gpu-mesh undrain office`\n"
    assert run("drain", "office").output.startswith("office was drained already, now until")
    [cellar, office] = json.loads(run("nodes", "--json").output)
    assert [bool(device["cordoned"]) for node in (cellar, office) for device in node["devices"]] == [False, True, True]
    assert run("undrain", "office").output == "office: takes work again\n"
    assert run("undrain", "office").output == "office: was not drained\n"


def test_undraining_says_what_else_keeps_it(client: redis.Redis):
    run("drain", "gpu0@office")
    cordons.cordon(client, "office", "health", why="its disk is full")
    told = run("undrain", "gpu0@office").output
    assert told == "gpu0@office: takes work again\ngpu0@office: still takes none: its disk is full\n"


@pytest.mark.parametrize(("words", "seconds"), [((), 60.0), (("--grace", "5"), 5.0)])
def test_what_runs_is_to_move(client: redis.Redis, words: tuple[str, ...], seconds: float):
    assert run("drain", "office", "--move", *words).exit_code == 0
    leave = holds.closed_to(client, "gpu0@office").leave
    assert leave is not None
    assert leave.within_s == seconds


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("drain", "attic"), "NAME='attic': a node or a device of one: cellar, gpu0@cellar, office"),
        (("undrain", "gpu7@office"), "NAME='gpu7@office'"),
        (("drain", "office", "--until", "yesterday"), "--until='yesterday'"),
        (("drain", "office", "--grace", "5"), "--grace is for --move"),
        (("drain", "office", "--move", "--grace", "-1"), "--grace"),
    ],
)
def test_what_is_wrong_is_named(client: redis.Redis, words: tuple[str, ...], named: str):
    done = run(*words)
    text = done.output + str(done.exception)
    assert done.exit_code != 0
    assert named in text
    assert cordons.cordoned(client) == {}


def test_json_for_programs(client: redis.Redis):
    told: dict[str, Any] = json.loads(run("drain", "cellar", "--json").output)
    assert (told["name"], told["was"], told["until"]) == ("cellar", False, None)
    assert json.loads(run("undrain", "cellar", "--json").output)["was"] is True


def test_a_task_says_that_all_that_fit_are_drained(client: redis.Redis):
    sent = add.apply_async((1, 1), queue="customer")
    run("drain", "office", "--by", "ann")
    [task] = lookup.waiting_tasks(settings())
    assert (task.id, task.why) == (sent.id, None)
    run("drain", "cellar", "--by", "bob")
    [task] = lookup.waiting_tasks(settings())
    assert task.why == (
        "no device that fits takes it now: gpu0@cellar: drained by bob, gpu0@office: drained by ann, "
        "gpu1@office: drained by ann"
    )
