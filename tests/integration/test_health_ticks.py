"""What a look at the mesh leads to: `services.health.tick`, driven by hand (SPEC H1-H5, F4; DESIGN §8)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from gpu_mesh.domain.checkup import Endpoint
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.domain.health import State
from gpu_mesh.services import alerts, diagnosis, drains, health, looking, recovery
from gpu_mesh.services.judge import Judge
from gpu_mesh.services.looking import Answer, Seen, look
from gpu_mesh.settings import settings
from gpu_mesh.store import cordons, keys, leases, nodes, repairs, server
from gpu_mesh.store import health as store
from gpu_mesh.store.alerts import standing
from gpu_mesh.store.client import connect

#: As the settings have it, s.
EVERY_S = 30.0
OLLAMA = {"name": "ollama", "url": "http://127.0.0.1:11434", "reachable": True, "ms": 7.0, "models": ["gemma4:e4b"]}
SYSTEM = {"load": 0.3, "memory": 0.5, "disk": 0.4, "skew_s": 0.0}


def report(**parts: Any) -> dict[str, Any]:
    return {"system": SYSTEM, "device": {"temperature_c": 50.0}, "engines": [OLLAMA], **parts}


class World:
    """Two nodes of a device each, as the test says they are."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.now = server.now(client)
        self.nodes = {name: nodes.NodeEntry(_node(name), self.now, 1.0, False) for name in ("n1", "n2")}
        self.reports: dict[str, dict[str, Any] | None] = {"gpu0@n1": report(), "gpu0@n2": report()}
        self.living = {"gpu0@n1", "gpu0@n2"}
        self.endpoints: list[Endpoint] = []

    def say(self, worker: str, **parts: Any) -> None:
        """It reports this from now on."""
        self.reports[worker] = report(**parts)

    def hush(self, worker: str) -> None:
        """It answers nothing, and its lease is over."""
        self.reports[worker] = None
        self.living.discard(worker)

    def node(self, name: str, **changes: Any) -> None:
        told = {"seen_at": self.now, "silent_s": 1.0, "left": False, **changes}
        self.nodes[name] = nodes.NodeEntry(_node(name), **told)

    def check(self, times: int = 1, seconds: float = EVERY_S) -> None:
        for _ in range(times):
            self.now += seconds
            answers = {worker: Answer(told, 4.0) for worker, told in self.reports.items() if told is not None}
            seen = Seen(list(self.nodes.values()), frozenset(self.living), answers, self.endpoints)
            health.tick(self.client, settings(), self.now, seen)

    def state(self, kind: str = store.DEVICE, name: str = "gpu0@n1") -> State | None:
        found = store.checked(self.client, kind, name)
        return None if found is None else found.health.state

    def ill(self) -> dict[str, str]:
        return cordons.cordoned(self.client)


def _node(name: str, *devices: str) -> nodes.Node:
    found = tuple(
        Device(name=device, node=name, kind=DeviceKind.NVIDIA, gpu_type="RTX 4090", memory_gb=24.0)
        for device in devices or ("gpu0",)
    )
    return nodes.Node(name=name, role="compute", host=name, version="1", devices=found)


@pytest.fixture
def world(broker: str) -> Iterator[World]:
    """Everybody was found well."""
    with connect(settings()) as client:
        found = World(client)
        found.check()
        yield found


def silent(**engine: Any) -> list[dict[str, Any]]:
    return [{**OLLAMA, "reachable": False, "ms": 1.0, "models": [], "error": "connection refused", **engine}]


def test_who_is_well(world: World):
    """H3: everything an operator asks of a node."""
    found = store.all_checked(world.client)
    assert {name: one.health.state for name, one in found.items()} == dict.fromkeys(
        ("device:gpu0@n1", "device:gpu0@n2", "node:n1", "node:n2"), State.HEALTHY
    )
    one = found["device:gpu0@n1"]
    assert (one.response_ms, one.models) == (7.0, ("gemma4:e4b",))
    assert (one.health.success_rate, one.health.score, one.health.strikes) == (100.0, 100.0, 0)
    assert one.health.checked_at == world.now
    assert found["node:n1"].report == SYSTEM
    assert world.ill() == {}


def test_a_worker_of_another_version_says_what_it_likes(world: World):
    """What is of an unexpected type counts as not said; everybody else is checked all the same (SPEC H1)."""
    world.say("gpu0@n1", system=["busy"], engines=3)
    world.say("gpu0@n2", engines=[{**OLLAMA, "ms": "fast", "models": 5}, "none"])
    before = world.now
    world.check()
    assert (world.state(), world.state(name="gpu0@n2")) == (State.HEALTHY, State.HEALTHY)
    checked = store.all_checked(world.client).values()
    assert {one.health.checked_at for one in checked} == {before + EVERY_S}


def test_the_age_of_a_report_may_be_anything(world: World):
    """As above, where workers are asked: one of unknown age is taken as it is."""

    class Control:
        asked = 0

        def broadcast(self, command: str, *, destination: Any, callback: Any, **_: Any) -> None:
            self.asked += 1
            callback({name: {"age_s": "old"} for name in destination})

    class App:
        control = Control()

    leases.renew(world.client, "gpu0@n1", 10.0, anew=True)
    seen = look(App(), world.client, settings())
    assert (App.control.asked, dict(seen.answers["gpu0@n1"].report)) == (1, {"age_s": "old"})


def test_a_silent_engine_is_three_strikes(world: World):
    """H2, H5: unhealthy at the third failed check, and claims nothing until it answers."""
    world.say("gpu0@n1", engines=silent())
    for state in (State.DEGRADED, State.DEGRADED):
        world.check()
        assert (world.state(), world.ill()) == (state, {})
    world.check()
    assert world.state() is State.UNHEALTHY
    assert world.ill() == {"gpu0@n1": "connection refused (3 strikes)"}
    assert cordons.all_cordons(world.client)[0].yield_s == health.YIELD_S
    world.check(2)
    assert world.state() is State.OFFLINE
    assert world.state(name="gpu0@n2") is State.HEALTHY
    world.say("gpu0@n1")
    world.check()
    assert (world.state(), world.ill()) == (State.HEALTHY, {})


def test_a_gpu_off_the_bus_is_unhealthy_at_once(world: World):
    """DESIGN §9; F4: what runs there moves."""
    world.say("gpu0@n1", device={"error": "gpu0 fell off the bus", "hard": True})
    world.check()
    assert world.state() is State.UNHEALTHY
    assert list(world.ill()) == ["gpu0@n1"]


def test_what_nobody_checks_any_more_may_claim_again(world: World):
    """The lead may be gone for good: an illness that nobody confirms ends, by whichever worker tends."""
    world.say("gpu0@n1", device={"error": "lost", "hard": True})
    world.check(3)
    ends = cordons.all_cordons(world.client)[0].until
    assert ends == pytest.approx(world.now + health.HOLD * EVERY_S + health.HOLD_S)
    drains.sweep(world.client, world.now + EVERY_S)
    assert list(world.ill()) == ["gpu0@n1"]
    drains.sweep(world.client, ends)
    assert world.ill() == {}


def test_a_drain_outlives_an_illness(world: World):
    cordons.cordon(world.client, "gpu0@n1", "drain", why="for ann")
    world.say("gpu0@n1", device={"error": "lost", "hard": True})
    world.check()
    world.say("gpu0@n1")
    world.check()
    assert world.ill() == {"gpu0@n1": "for ann"}


def test_a_machine_that_vanishes(world: World, caplog: pytest.LogCaptureFixture):
    """F1, H5: node and device fail; the fleet's rule tells of both, so nothing is told here."""
    caplog.set_level(logging.INFO, "gpu_mesh.services.alerts")
    world.hush("gpu0@n1")
    for silent_s in (25.0, 55.0, 85.0):
        world.node("n1", silent_s=silent_s)
        world.check()
    assert (world.state(), world.state(store.NODE, "n1")) == (State.UNHEALTHY, State.UNHEALTHY)
    assert world.state(store.NODE, "n2") is State.HEALTHY
    assert not [record for record in caplog.records if getattr(record, "action", "") == "alert"]
    # What it said last is kept for whoever looks why.
    found = store.checked(world.client, store.DEVICE, "gpu0@n1")
    assert found is not None
    assert found.report["device"] == {"temperature_c": 50.0}
    assert found.models == ("gemma4:e4b",)


def test_a_node_whose_workers_answer_is_there(world: World):
    """Only its registration is late: its supervisor is, not the machine."""
    world.node("n1", silent_s=60.0)
    world.check(3)
    assert world.state(store.NODE, "n1") is State.HEALTHY


def test_who_leaves_in_order_is_not_ill(world: World):
    world.say("gpu0@n1", device={"error": "lost", "hard": True})
    world.check()
    world.hush("gpu0@n1")
    world.node("n1", left=True)
    world.check(3)
    assert (world.state(), world.state(store.NODE, "n1"), world.ill()) == (None, None, {})
    world.node("n1")
    world.living.add("gpu0@n1")
    world.say("gpu0@n1")
    world.check()
    assert world.state() is State.HEALTHY


def test_after_a_pause_nobody_is_ill_for_his_silence(world: World):
    """DESIGN §6: Redis was away, the nodes had no chance to be heard of. A GPU that is lost is lost all the same."""
    world.hush("gpu0@n1")
    world.node("n1", silent_s=600.0)
    world.say("gpu0@n2", device={"error": "lost", "hard": True})
    world.check(seconds=600.0)
    assert (world.state(), world.state(store.NODE, "n1")) == (State.HEALTHY, State.HEALTHY)
    assert world.state(name="gpu0@n2") is State.UNHEALTHY
    world.check()
    assert (world.state(), world.state(store.NODE, "n1")) == (State.DEGRADED, State.DEGRADED)


def test_a_pause_mends_nobody_either(world: World, caplog: pytest.LogCaptureFixture):
    """Who is silent before and after it is ill all the while: nothing is told, no cordon lifted."""
    world.hush("gpu0@n1")
    world.check(5)
    world.node("n2", silent_s=150.0)
    world.hush("gpu0@n2")
    world.check(5)
    caplog.set_level(logging.INFO, "gpu_mesh.services.alerts")
    caplog.clear()
    for seconds in (600.0, EVERY_S):
        world.check(seconds=seconds)
        assert (world.state(), world.state(store.NODE, "n2")) == (State.OFFLINE, State.OFFLINE)
        assert set(world.ill()) == {"gpu0@n1", "gpu0@n2"}
    assert caplog.messages == []


def test_a_worker_that_starts_is_not_ill(world: World):
    """A node is registered seconds before its workers answer: nobody is told of that, unless they never do."""
    world.nodes["n3"] = nodes.NodeEntry(_node("n3"), world.now, 1.0, False)
    world.check(2, seconds=diagnosis.START_S / 3)
    assert world.state(name="gpu0@n3") is State.UNKNOWN
    found = store.checked(world.client, store.DEVICE, "gpu0@n3")
    assert found is not None
    assert (found.health.checks, found.health.strikes) == (0, 0)
    world.check(3, seconds=diagnosis.START_S)
    assert world.state(name="gpu0@n3") is State.UNHEALTHY


def test_an_address_that_is_only_watched(world: World):
    """Issue 6: a remote Ollama behind a tunnel, no worker of ours."""
    world.endpoints = [Endpoint("a40", "http://a40:11434", 80.0, None, ("big",))]
    world.check()
    found = store.checked(world.client, store.ENDPOINT, "a40")
    assert found is not None
    assert (found.response_ms, found.models, found.url) == (80.0, ("big",), "http://a40:11434")
    world.endpoints = [Endpoint("a40", "http://a40:11434", 5000.0, "timed out")]
    world.check(3)
    assert world.state(store.ENDPOINT, "a40") is State.UNHEALTHY
    assert world.ill() == {}
    world.endpoints = []
    world.check()
    assert world.state(store.ENDPOINT, "a40") is None


def test_a_tunnel_that_flaps_is_told_of_once(world: World, caplog: pytest.LogCaptureFixture):
    """Issue 6: flapping is damped."""
    caplog.set_level(logging.INFO, "gpu_mesh.services.alerts")
    for _ in range(6):
        world.say("gpu0@n1", engines=silent())
        world.check()
        world.say("gpu0@n1")
        world.check()
    assert world.state() is State.DEGRADED
    assert world.ill() == {}
    flapping = [one for one in caplog.records if getattr(one, "rule", "") == "flapping"]
    assert len(flapping) == 1
    world.check(12)
    assert world.state() is State.HEALTHY


def test_a_silent_engine_has_its_models_still(world: World):
    """P1: its work waits for it, and is not failed by a device that has not the model."""
    world.say("gpu0@n1", engines=silent())
    world.check(4)
    found = store.checked(world.client, store.DEVICE, "gpu0@n1")
    assert found is not None
    assert found.models == ("gemma4:e4b",)
    world.say("gpu0@n1", engines=[{**OLLAMA, "models": ["other"]}])
    world.check()
    found = store.checked(world.client, store.DEVICE, "gpu0@n1")
    assert found is not None
    assert found.models == ("other",)


def test_flapping_that_a_check_died_of_telling_is_told_by_the_next(world: World):
    for _ in range(3):
        world.say("gpu0@n1", engines=silent())
        world.check()
        world.say("gpu0@n1")
        world.check()
    alerts.clear(world.client, "flapping", "gpu0@n1", "as if it had never been told")
    world.check()
    assert ("flapping", "gpu0@n1") in {(one.rule, one.subject) for one in standing(world.client)}


def test_what_is_spoilt_by_hand_is_checked_anew(world: World):
    world.client.hset(keys.HEALTH, mapping={"device:gpu0@n1": "no json", "node:n1": "[]", "device:x@y": "{}"})
    world.check()
    assert (world.state(), world.state(store.NODE, "n1")) == (State.HEALTHY, State.HEALTHY)


def test_one_check_at_a_time(world: World):
    """Two leads, or a message that came late: nobody gets two strikes for one failure."""
    assert store.may_check(world.client, 60.0)
    assert not store.may_check(world.client, 60.0)


def test_placement_prefers_who_is_well(world: World):
    """SPEC P2: who is degraded scores half, and what is woken first by a publish is who is well."""
    device = world.nodes["n1"].node.devices[0]
    now = [0.0]
    judge = Judge(settings(), device.worker, device, lambda call, *args: call(world.client, *args), lambda: now[0])
    judge.judge("7", "{}")
    [(_, well)] = world.client.zrange(keys.ranking("7", "normal"), 0, -1, withscores=True)
    world.say("gpu0@n1", device={"warnings": ["it throttles"]})
    world.check()
    now[0] += 60.0
    judge.refresh()
    [(_, degraded)] = world.client.zrange(keys.ranking("7", "normal"), 0, -1, withscores=True)
    # The node's load moves the score a little too.
    assert degraded < 0.7 * well


def orders(world: World) -> list[tuple[str, str, int]]:
    return [(one.worker, one.engine_url, one.attempt) for one in repairs.pending(world.client, "n1")]


def recovery_alerts(world: World) -> set[str]:
    return {one.subject for one in standing(world.client) if one.rule == recovery.RECOVERY}


def end(world: World, outcome: str, node: str = "n1", **more: Any) -> None:
    """The node does what it was ordered."""
    order = repairs.take(world.client, node, 1)
    assert order is not None
    repairs.record(
        world.client, repairs.Repair(order=order, outcome=outcome, why="so it is", ended_at=world.now, **more)
    )


def share_a_silent_engine(world: World) -> None:
    """Two devices of n1 are unhealthy for the same server."""
    world.nodes["n1"] = nodes.NodeEntry(_node("n1", "gpu0", "gpu1"), world.now, 1.0, False)
    world.living.add("gpu1@n1")
    for worker in ("gpu0@n1", "gpu1@n1"):
        world.say(worker, engines=silent())
    world.check(3)


class TestRecovery:
    """H4: its node restarts the engine of an unhealthy device."""

    def test_at_once_and_then_with_pauses(self, world: World):
        """Not before it is unhealthy; one at a time; 0, 10, 20, 40 s …"""
        world.say("gpu0@n1", engines=silent())
        world.check(2)
        assert orders(world) == []
        world.check()
        assert orders(world) == [("gpu0@n1", OLLAMA["url"], 1)]
        world.check()
        assert len(orders(world)) == 1
        end(world, repairs.FAILED)
        world.check(seconds=5.0)
        assert orders(world) == []
        world.check(seconds=5.0)
        assert orders(world) == [("gpu0@n1", OLLAMA["url"], 2)]
        end(world, repairs.FAILED)
        world.check(seconds=19.0)
        assert orders(world) == []
        world.check(seconds=1.0)
        assert orders(world) == [("gpu0@n1", OLLAMA["url"], 3)]

    def test_a_new_trouble_begins_anew(self, world: World):
        world.say("gpu0@n1", engines=silent())
        world.check(3)
        end(world, repairs.RECOVERED)
        world.say("gpu0@n1")
        world.check()
        world.say("gpu0@n1", engines=silent())
        world.check(3)
        assert orders(world) == [("gpu0@n1", OLLAMA["url"], 1)]

    @pytest.mark.parametrize(
        "parts",
        [
            {"engines": silent(), "device": {"error": "fell off the bus", "hard": True}},
            {"engines": silent(), "device": {"faults": ["row not remapped"]}},
            {"device": {"error": "fell off the bus", "hard": True}},
        ],
    )
    def test_never_for_the_hardware(self, world: World, parts: dict[str, Any]):
        """DESIGN §9: no restart loop."""
        world.say("gpu0@n1", **parts)
        world.check(10)
        assert world.state() is State.OFFLINE
        assert orders(world) == []

    def test_nor_for_a_machine_that_is_gone(self, world: World):
        world.say("gpu0@n1", engines=silent())
        world.check()
        world.hush("gpu0@n1")
        world.node("n1", silent_s=90.0)
        world.check(5)
        assert orders(world) == []

    def test_what_did_not_help_is_told_once(self, world: World, caplog: pytest.LogCaptureFixture):
        caplog.set_level(logging.INFO, "gpu_mesh.services.alerts")
        world.say("gpu0@n1", engines=silent())
        world.check(3)
        end(world, repairs.FAILED, output=("ollama: no such model store",))
        world.check(2)
        [told] = [one for one in caplog.records if getattr(one, "rule", "") == "recovery"]
        assert told.levelno == logging.ERROR
        for words in ("attempt 1", "so it is", "no such model store"):
            assert words in told.getMessage()

    def test_it_is_over_when_the_engine_answers_whoever_mended_it(self, world: World):
        """The alert says to restart it by hand; who leaves takes his with him."""
        for worker in ("gpu0@n1", "gpu0@n2"):
            world.say(worker, engines=silent())
        world.check(3)
        end(world, repairs.FAILED)
        end(world, repairs.FAILED, "n2")
        world.check()
        assert recovery_alerts(world) == {"gpu0@n1", "gpu0@n2"}
        world.say("gpu0@n1")
        world.node("n2", left=True)
        world.hush("gpu0@n2")
        world.check()
        assert recovery_alerts(world) == set()

    def test_devices_that_share_an_engine_share_its_attempts(self, world: World):
        """Two GPUs of one server: it is restarted once, and the pauses are the server's."""
        share_a_silent_engine(world)
        end(world, repairs.FAILED)
        world.check(seconds=5.0)
        assert orders(world) == []
        world.check(seconds=5.0)
        assert orders(world) == [("gpu0@n1", OLLAMA["url"], 2)]
        assert [one.outcome for one in recovery.attempts(settings(), "gpu1@n1")] == [repairs.FAILED]

    def test_who_may_not_restart_it_keeps_nobody_from_it(self, world: World):
        """GPU_MESH_ENGINE_RESTART="gpu1=…" alone: the refusal of gpu0's order is no attempt at the engine."""
        share_a_silent_engine(world)
        end(world, repairs.REFUSED)
        world.check(seconds=1.0)
        assert orders(world) == [("gpu1@n1", OLLAMA["url"], 1)]

    def test_what_is_spoilt_by_hand_is_left_out(self, world: World):
        for key in (keys.UNTOLD, keys.REPAIRS, keys.orders("n1"), keys.mending("n1")):
            world.client.lpush(key, "no json", "{}", "[]")
        world.say("gpu0@n1", engines=silent())
        world.check(3)
        assert orders(world) == [("gpu0@n1", OLLAMA["url"], 1)]
        assert world.client.llen(keys.UNTOLD) == 0


class Deaf:
    """An app whose workers hear a command only from the second time on."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.control = self

    def broadcast(self, command: str, *, destination: list[str], callback: Any, **_: Any) -> None:
        self.asked.append(list(destination))
        for worker in destination if len(self.asked) > 1 else destination[:1]:
            callback({worker: report(age_s=0.1)})


def test_who_does_not_answer_is_asked_again(world: World):
    """Redis may have frozen just then: nobody gets a strike for that."""
    deaf = Deaf()
    for worker in ("gpu0@n1", "gpu0@n2"):
        leases.renew(world.client, worker, 60.0, anew=True)
    seen = looking.look(deaf, world.client, settings().model_copy(update={"health_every_s": 0.2}))
    assert deaf.asked == [["gpu0@n1", "gpu0@n2"], ["gpu0@n2"]]
    assert seen.answers.keys() == {"gpu0@n1", "gpu0@n2"}
