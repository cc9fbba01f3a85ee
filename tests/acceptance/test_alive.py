"""`gpu-mesh alive` where nobody answers; tests/acceptance/test_compose_services.py has those that do."""

from __future__ import annotations

import pytest
from processes import run
from redis_servers import free_port

from gpu_mesh.cli.alive import expected
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.settings import settings
from gpu_mesh.store import nodes
from gpu_mesh.store.client import connect

ENV = {"NODE_NAME": "nobody"}


@pytest.mark.parametrize(
    ("part", "queues", "said"),
    [
        ("devices", "", "node nobody is not in the mesh"),
        ("control", "", "no answer within 0.2 s from control@nobody, cpu@nobody\n"),
        # Without CPU queues there is no worker of theirs to wait for.
        ("control", "none", "no answer within 0.2 s from control@nobody\n"),
        ("beat", "", "no answer within 0.2 s from beat@nobody\n"),
    ],
)
def test_who_does_not_answer_is_named(broker: str, part: str, queues: str, said: str) -> None:
    ran = run("alive", part, "--timeout", "0.2", env={**ENV, "GPU_MESH_CPU_QUEUES": queues})
    assert ran.returncode == 1
    assert said in ran.stderr


def test_a_redis_that_is_away_is_told_apart() -> None:
    """Exit code 3, as with every command."""
    ran = run("alive", env={**ENV, "GPU_MESH_BROKER_URL": f"redis://127.0.0.1:{free_port()}/0"})
    assert ran.returncode == 3
    assert "does not answer" in ran.stderr


def test_a_part_does_not_start_without_redis(tmp_path) -> None:
    """It says so and ends: Docker, or systemd, tries again."""
    env = {**ENV, "GPU_MESH_BROKER_URL": f"redis://127.0.0.1:{free_port()}/0", "GPU_MESH_STATE_DIR": str(tmp_path)}
    ran = run("beat", env=env)
    assert ran.returncode == 3
    assert "does not answer" in ran.stderr


def test_a_node_that_left_is_not_alive(broker: str) -> None:
    """Its registration is still there, and says that it left: its workers are not to be waited for."""
    current = settings().model_copy(update={"node_name": "nobody"})
    device = Device(name="gpu0", node="nobody", kind=DeviceKind.FAKE, gpu_type="A40", memory_gb=40)
    node = nodes.Node(name="nobody", role="compute", host="host", version="1", devices=(device,))
    with connect(current) as client:
        nodes.register(client, node, instance="here", ttl_s=60)
        assert expected(current, "devices") == ["gpu0@nobody"]
        nodes.leave(client, "nobody", instance="here")
    assert expected(current, "devices") == []
