"""A worker's report, part by part (SPEC H1), and who takes it (workers/sampler)."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_for

from gpu_mesh.devices import Process, Reading
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.domain.requirements import Requirements
from gpu_mesh.engines.base import EngineStatus, Model
from gpu_mesh.errors import DeviceError
from gpu_mesh.services import placement
from gpu_mesh.services.claimer import Claimer
from gpu_mesh.services.vitals import Vitals
from gpu_mesh.settings import Settings
from gpu_mesh.store import held, keys, nodes, server
from gpu_mesh.store.client import connect
from workers.sampler import Sampler

WORKER = "gpu0@v"
DEVICE = Device(name="gpu0", node="v", kind=DeviceKind.FAKE, gpu_type="A40", memory_gb=40.0)


class Engine:
    """One that says what it was given."""

    name = "ollama"

    def __init__(self, url: str | None, status: EngineStatus | Exception) -> None:
        self.url = url
        self._status = status

    def check(self) -> EngineStatus:
        if isinstance(self._status, Exception):
            raise self._status
        return self._status


def vitals(broker: str, engines: Any = (), device: Device | None = DEVICE, **options: Any) -> Vitals:
    bound = replace(device, engine_url="http://127.0.0.1:11434") if device and engines else device
    current = Settings(broker_url=broker, engine_check_timeout_s=0.1)
    return Vitals(current, WORKER, bound, engines=lambda *_: engines, **options)


def refuse(error: Exception) -> Callable[[], Reading]:
    def read() -> Reading:
        raise error

    return read


class TestReport:
    def test_whole(self, broker: str) -> None:
        """H1: three tiers and the engine, as JSON; the models in memory with what of them the CPU does."""
        models = (Model(name="a"), Model(name="b", size_gb=4.0, vram_gb=3.0, loaded=True))
        status = EngineStatus(reachable=True, response_ms=12.34, version="0.12", models=models)
        engines = [Engine("http://127.0.0.1:11434", status), Engine(None, ValueError())]
        found = json.loads(json.dumps(vitals(broker, engines).take()))
        with connect(Settings(broker_url=broker)) as client:
            assert abs(server.now(client) - found["taken_at"]) < 20
        assert found["system"].keys() == {"load", "memory", "disk", "disk_free_gb", "skew_s", "error"}
        assert found["device"]["memory_total_gb"] == 40.0
        assert found["held_gb"] == 0.0
        loaded = [{"name": "b", "size_gb": 4.0, "vram_gb": 3.0, "cpu_share": 0.25}]
        assert found["engines"] == [
            {
                "name": "ollama",
                "url": "http://127.0.0.1:11434",
                "reachable": True,
                "ms": 12.3,
                "version": "0.12",
                "models": ["a", "b"],
                "loaded": loaded,
                "error": None,
            }
        ]

    def test_without_a_device(self, broker: str) -> None:
        found = vitals(broker, [Engine("http://a", ValueError())], None).take()
        assert (found["device"], found["held_gb"], found["engines"]) == (None, None, [])
        assert found["system"]["error"] is None

    def test_redis_away(self, free_port: int) -> None:
        """H1: its clock is not known, and why; the rest is."""
        found = vitals(f"redis://127.0.0.1:{free_port}/0").take()
        assert (found["taken_at"], found["system"]["skew_s"]) == (None, None)
        assert "does not answer" in found["system"]["error"]
        assert found["system"]["memory"] > 0
        assert found["device"]["memory_total_gb"] == 40.0

    def test_a_state_dir_that_is_not_there_yet(self, broker: str, tmp_path: Path) -> None:
        """H1: the file system that it will be on."""
        current = Settings(broker_url=broker, state_dir=tmp_path / "not" / "yet")
        assert 0 < Vitals(current, WORKER, None).take()["system"]["disk"] <= 1

    @pytest.mark.parametrize(
        ("error", "told"),
        [
            (DeviceError("it is lost", hard=True), {"error": "it is lost", "hard": True}),
            (DeviceError("not read"), {"error": "not read", "hard": False}),
            (RuntimeError("a slip"), {"error": "RuntimeError: a slip", "hard": False}),
        ],
    )
    def test_a_device_that_cannot_be_read(self, broker: str, error: Exception, told: dict[str, Any]) -> None:
        found = vitals(broker, read=refuse(error)).take()
        assert (found["device"], found["held_gb"]) == (told, None)
        assert found["system"]["error"] is None

    def test_an_engine_whose_check_fails(self, broker: str) -> None:
        """H1: it counts as not answering, at the address it is bound to."""
        [row] = vitals(broker, [Engine("http://127.0.0.1:11434", ValueError("odd"))]).take()["engines"]
        assert (row["reachable"], row["url"], row["error"]) == (False, "http://127.0.0.1:11434", "ValueError: odd")

    def test_an_engine_that_hangs(self, broker: str) -> None:
        """H1: past its limit it does not answer, and the report is whole."""
        let_go = threading.Event()

        class Slow(Engine):
            def check(self) -> EngineStatus:
                let_go.wait(20)
                return super().check()

        found = vitals(broker, [Slow("http://127.0.0.1:11434", ValueError())]).take()
        let_go.set()
        [row] = found["engines"]
        assert "not known after" in row["error"]
        assert found["device"]["memory_total_gb"] == 40.0


class Told:
    """Vitals whose held memory a test sets; counts how often they are taken."""

    def __init__(self) -> None:
        self.held: float | None = 0.0
        self.taken = 0

    def take(self) -> dict[str, Any]:
        self.taken += 1
        return {"worker": WORKER, "taken_at": 1.0, "held_gb": self.held}

    def close(self) -> None:
        """Nothing to end."""


class TestSampler:
    def test_nothing_is_known_before_the_first_report(self, broker: str) -> None:
        sampler = Sampler(Settings(broker_url=broker), WORKER, Told())
        found = sampler.report()
        assert (found["worker"], found["age_s"], found["system"], found["engines"]) == (WORKER, None, None, [])

    def test_an_old_report_is_taken_anew_when_it_is_asked_for(self, broker: str) -> None:
        """H1: at once it answers with what it has."""
        now, told = [0.0], Told()
        sampler = Sampler(Settings(broker_url=broker, health_every_s=3600.0), WORKER, told, clock=lambda: now[0])
        sampler.start()
        try:
            wait_for(lambda: sampler.report()["taken_at"], "the first report")
            now[0] = 4.0
            assert sampler.report()["age_s"] == 4.0
            assert told.taken == 1
            now[0] = 6.0
            assert sampler.report()["age_s"] == 6.0
            wait_for(lambda: told.taken == 2, "a new report")
            wait_for(lambda: sampler.report()["age_s"] == 0.0, "its age")
        finally:
            sampler.stop()

    def test_others_are_told_what_strangers_hold(self, broker: str) -> None:
        """P6: while they hold it, in steps; a worker that is gone is forgotten."""
        told = Told()
        sampler = Sampler(Settings(broker_url=broker), WORKER, told)
        with connect(Settings(broker_url=broker)) as client:
            for gb, step in ((0.2, 0.0), (14.1, 14.0), (14.4, 14.0), (None, 0.0)):
                told.held = gb
                sampler._look()
                assert sampler.held_gb() == step
                assert held.read(client, [WORKER, "gpu1@v"]) == ({WORKER: step} if step else {})
                assert (client.pttl(keys.held(WORKER)) > 0) is bool(step)

    def test_redis_away_stops_no_report(self, free_port: int) -> None:
        told = Told()
        told.held = 3.0
        sampler = Sampler(Settings(broker_url=f"redis://127.0.0.1:{free_port}/0"), WORKER, told)
        sampler._look()
        assert sampler.held_gb() == 3.0


class TestOffer:
    def test_a_device_claims_what_fits_beside_strangers(self, broker: str) -> None:
        """P6: judged anew at once when they come or leave."""
        taken = [0.0]
        claimer = Claimer(Settings(broker_url=broker), WORKER, DEVICE, held=lambda: taken[0])
        needs = json.dumps({"memory_gb": 30}).encode()

        def fits() -> bool:
            claimer.command(["internal"])
            claimer.read([b"needs", b"7", needs])
            return ",7," in claimer.command(["internal"])[6]

        assert fits()
        taken[0] = 10.5
        assert not fits()
        taken[0] = 10.0
        assert fits()

    def test_a_task_waits_for_memory_and_is_not_unschedulable(self, broker: str) -> None:
        """P6: strangers leave; what no empty device has stays unschedulable."""
        current = Settings(broker_url=broker)
        card = replace(DEVICE, kind=DeviceKind.NVIDIA, margin_gb=1.0)
        node = nodes.Node(name="v", role="compute", host="h", version="1", devices=(card,))
        with connect(current) as client:
            nodes.register(client, node, instance="i", ttl_s=60)
            held.write(client, card.worker, 14.0, 60)
        fleet = placement.online_devices(current)
        assert [device.budget_gb for device in fleet] == [25.0]
        needs = Requirements.of({"memory_gb": 30})
        assert placement.unschedulable(current, needs, fleet) is None
        assert "14 GB that other programs hold" in str(placement.held_back(current, needs, fleet))
        assert not placement.suits(current, needs, fleet[0])
        assert placement.held_back(current, Requirements.of({"memory_gb": 20}), fleet) is None
        assert "needs 50 GB" in str(placement.unschedulable(current, Requirements.of({"memory_gb": 50}), fleet))

    def test_what_engines_and_we_hold_is_no_strangers(self, broker: str) -> None:
        """P6: this process is ours."""
        own = Process(pid=os.getpid(), name="python3", memory_gb=5.0)
        reading = Reading(processes=(own, Process(pid=2**22 + 1, name="blender", memory_gb=3.0)))
        assert vitals(broker, read=lambda: reading).take()["held_gb"] == 3.0
