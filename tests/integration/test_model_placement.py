"""A task goes where an engine has its model, by what the checks saw (SPEC P1, P2)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.domain.health import Health
from gpu_mesh.domain.requirements import Requirements
from gpu_mesh.services import placement
from gpu_mesh.settings import Settings, settings
from gpu_mesh.store import health, nodes
from gpu_mesh.store.client import connect

SMALL, LARGE = "gemma4:e4b", "gemma4:27b"


def device(node: str, memory_gb: float = 24.0) -> Device:
    return Device(name="gpu0", node=node, kind=DeviceKind.FAKE, gpu_type="RTX 4090", memory_gb=memory_gb)


ONE, TWO = device("n1"), device("n2", memory_gb=8.0)


@pytest.fixture
def client(broker: str) -> Iterator[redis.Redis]:
    """Two nodes of a device each, never checked."""
    with connect(settings()) as found:
        for one in (ONE, TWO):
            node = nodes.Node(name=one.node, role="compute", host="h", version="0", devices=(one,))
            nodes.register(found, node, instance=one.node, ttl_s=60)
        yield found


def has(client: redis.Redis, one: Device, *models: str) -> None:
    """Its engines have these, by the last check."""
    health.keep(client, [health.Checked(health.subject(health.DEVICE, one.worker), Health(), models=models)])


def fitting(needs: Requirements, current: Settings | None = None) -> list[str]:
    return [one.node for one in placement.fitting(current or settings(), needs)]


def test_only_where_the_model_is(client: redis.Redis):
    """With and without the tag that goes without saying."""
    has(client, ONE, SMALL, "nomic-embed-text:latest")
    has(client, TWO, SMALL)
    assert fitting(Requirements(remote=True, model=SMALL)) == ["n1", "n2"]
    embeds = Requirements(remote=True, model="nomic-embed-text")
    assert fitting(embeds) == ["n1"]
    assert placement.suits(settings(), embeds, ONE)
    assert not placement.suits(settings(), embeds, TWO)


def test_a_model_that_nobody_has_is_for_whoever_takes_it_to_refuse(client: redis.Redis):
    """It fails at once, with the names of those that there are, and waits for nobody."""
    assert fitting(Requirements(remote=True, model=LARGE)) == ["n1", "n2"]
    has(client, ONE, SMALL)
    assert fitting(Requirements(remote=True, model=LARGE)) == ["n1", "n2"]


def test_who_is_gone_keeps_nobody_waiting(client: redis.Redis):
    """The only device that had it vanished: whoever is left refuses the task, with what there is."""
    has(client, ONE, SMALL)
    has(client, TWO, LARGE)
    nodes.leave(client, "n2", instance="n2")
    assert fitting(Requirements(remote=True, model=LARGE)) == ["n1"]


def test_where_it_is_but_does_not_fit_the_task_waits_and_says_why(client: redis.Redis):
    has(client, ONE, SMALL)
    has(client, TWO, LARGE)
    needs = Requirements(remote=True, model=LARGE, memory_gb=20)
    why = placement.unschedulable(settings(), needs, placement.online_devices(settings()))
    assert why is not None
    assert "gpu0@n1 has no model 'gemma4:27b'; gpu0@n2 has" in why
    assert "needs 20 GB" in why


def test_what_fetches_its_model_may_run_anywhere(client: redis.Redis):
    """GPU_MESH_ENGINE_PULL."""
    has(client, ONE, SMALL)
    pulls = settings().model_copy(update={"engine_pull": True})
    assert fitting(Requirements(remote=True, model=SMALL), pulls) == ["n1", "n2"]


def test_a_task_that_is_no_engine_s_brings_its_own(client: redis.Redis):
    """`model` of a training script is whatever it loads."""
    has(client, ONE, SMALL)
    assert fitting(Requirements(model=SMALL)) == ["n1", "n2"]
