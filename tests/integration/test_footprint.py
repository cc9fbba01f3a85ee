"""Footprints: noted by jobs, read where a job's memory is judged (SPEC P6)."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import redis
from ollama_stub import OllamaStub

from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.domain.footprints import Footprint
from gpu_mesh.domain.requirements import Requirements
from gpu_mesh.engines.ollama import OllamaEngine
from gpu_mesh.services import footprints, placement
from gpu_mesh.services.judge import Judge
from gpu_mesh.settings import Settings, settings
from gpu_mesh.store import footprints as store
from gpu_mesh.store import keys, nodes
from gpu_mesh.store.client import connect

DEVICE = Device(name="gpu0", node="n1", kind=DeviceKind.FAKE, gpu_type="A40", memory_gb=6.0, margin_gb=0.5)
BIG, SMALL = "gemma4:12b", "gemma4:e4b"
#: What the stub's models take, GB.
SMALL_GB = 4.5


@pytest.fixture
def client(broker: str) -> Iterator[redis.Redis]:
    footprints._looked.clear()
    with connect(settings()) as found:
        yield found


@pytest.fixture
def engine() -> Iterator[OllamaEngine]:
    """With the small model loaded."""
    with OllamaStub() as stub:
        found = OllamaEngine(stub.url)
        found.load(SMALL)
        yield found
        found.close()


def test_a_job_notes_what_its_model_takes(client: redis.Redis, engine: OllamaEngine):
    """P6: by type of device; asked seldom; a model that is not loaded any more tells nothing."""
    now = [0.0]

    def note(model: str) -> None:
        footprints.note(DEVICE, engine, model, settings(), clock=lambda: now[0])

    note(SMALL)
    note(BIG)
    assert store.read(client)["A40", SMALL].gb == pytest.approx(SMALL_GB)
    assert len(store.read(client)) == 1
    client.delete(keys.FOOTPRINTS)
    note(SMALL)
    assert store.read(client) == {}
    now[0] += footprints.LOOK_EVERY_S
    note(SMALL)
    assert len(store.read(client)) == 1


def test_it_fails_no_job(engine: OllamaEngine, free_port: int, caplog: pytest.LogCaptureFixture):
    """P6: Redis away, the engine gone: the estimate stands."""
    caplog.set_level(logging.INFO)
    away = Settings(broker_url=f"redis://127.0.0.1:{free_port}/0")
    footprints._looked.clear()
    footprints.note(DEVICE, engine, SMALL, away)
    footprints.note(DEVICE, OllamaEngine(f"http://127.0.0.1:{free_port}"), SMALL, away)
    assert caplog.text.count("is not noted") == 2
    assert footprints.known(away) == {}


def test_what_is_unreadable_is_left_out(client: redis.Redis):
    """STYLE: another version's."""
    client.hset(keys.FOOTPRINTS, mapping={"x": "y", '["A40", "m"]': "[1]", '["A40", "n"]': "[2, 3]"})
    assert store.read(client) == {("A40", "n"): Footprint(2.0, 3.0)}


def test_claims_go_by_it(client: redis.Redis):
    """P6: what a caller's estimate kept away fits, what it let pass does not; the reason names the figure."""
    told = Requirements(memory_gb=8.0, remote=True, model=SMALL)
    little = Requirements(memory_gb=1.0, remote=True, model=f"{BIG}")
    assert not placement.suits(settings(), told, DEVICE)
    assert placement.suits(settings(), little, DEVICE)
    store.write(client, "A40", SMALL, Footprint(SMALL_GB, 0.0))
    store.write(client, "A40", BIG, Footprint(7.0, 0.0))
    assert placement.suits(settings(), told, DEVICE)
    assert "needs 7 GB" in str(placement.unschedulable(settings(), little, [DEVICE]))
    node = nodes.Node(name="n1", role="compute", host="h", version="0", devices=(DEVICE,))
    nodes.register(client, node, instance="i", ttl_s=60)
    assert placement.fitting(settings(), told) == [DEVICE]
    assert placement.fitting(settings(), little) == []


def test_a_worker_judges_by_it(client: redis.Redis):
    """P6: its next judgement, within half a minute."""
    now = [0.0]
    judge = Judge(settings(), DEVICE.worker, DEVICE, lambda call, *args: None, lambda: now[0])
    text = '{"memory_gb": 8.0, "remote": true, "model": "gemma4:e4b"}'
    judge.judge("7", text)
    assert judge.misfits == {"7"}
    store.write(client, "A40", SMALL, Footprint(SMALL_GB, 0.0))
    now[0] += 60.0
    judge.refresh()
    judge.judge("7", text)
    assert judge.fits == {"7"}
