"""A worker's claimer while Redis is away, and after it lost data (DESIGN §5, §6)."""

from __future__ import annotations

import json

import pytest

from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.services.claimer import Claimer
from gpu_mesh.settings import Settings
from gpu_mesh.store import claims, keys
from gpu_mesh.store.client import connect

WORKER = "gpu0@claimer"
#: Where a claim names the needs its device fits: after EVALSHA, the script and the number of keys.
FITS = 3 + 3


@pytest.fixture
def cut_off(free_port: int) -> Claimer:
    """One whose Redis is not there."""
    return Claimer(Settings(broker_url=f"redis://127.0.0.1:{free_port}/0"), WORKER, None)


def claimed(tag: str = "tag") -> claims.Claimed:
    return claims.Claimed(tag, "{}", list="internal", queue="internal", deliveries=1, at=1.0, needs="1")


def test_a_message_nobody_knows_to_be_delayed_is_not_run(cut_off: Claimer):
    """§5: without an answer it is handed back, not run before its time."""
    assert cut_off.delay(claimed(), due=1e12)


def test_what_was_let_go_of_is_said_before_the_next_claim(cut_off: Claimer):
    """§6: else the same message could be claimed again, and the late word would give its new run away."""
    cut_off.ack("tag")
    assert cut_off.command(["internal"])[:2] == ["BRPOP", keys.wake(WORKER)]


def test_verdicts_do_not_outlive_a_connection(broker: str):
    """§9: a Redis that lost data gives the numbers of needs anew."""
    claimer = Claimer(Settings(broker_url=broker), WORKER, None)
    claimer.read([b"needs", b"7", json.dumps({"memory_gb": 1}).encode()])
    assert ",7," in claimer.command(["internal"])
    claimer.load()
    assert ",7," not in claimer.command(["internal"])


def test_verdicts_do_not_outlive_a_lease(broker: str):
    """§9: a FLUSHALL cuts no connection, and ends every lease."""
    claimer = Claimer(Settings(broker_url=broker), WORKER, None)
    claimer.read([b"needs", b"7", json.dumps({"memory_gb": 1}).encode()])
    assert ",7," in claimer.command(["internal"])
    claimer.forget()
    assert ",7," not in claimer.command(["internal"])


def test_verdicts_change_where_claims_are_made_alone(broker: str):
    """§5: the lease's thread, which ticks, changes none: between two reads of one claim they would fit nothing."""
    now = [0.0]
    device = Device(name="gpu0", node="claimer", kind=DeviceKind.FAKE, gpu_type="A40", memory_gb=40.0)
    settings = Settings(broker_url=broker)
    claimer = Claimer(settings, WORKER, device, clock=lambda: now[0])
    claimer.read([b"needs", b"7", json.dumps({"memory_gb": 1}).encode()])
    ranking = keys.ranking("7", "normal")
    with connect(settings) as client:
        assert client.zscore(ranking, WORKER) is not None
        client.delete(ranking)
        now[0] += 1.0
        assert claimer.command(["internal"])[FITS] == ",7,"
        now[0] += 3600.0
        claimer.tick(tends=True)
        assert not client.exists(ranking)
        # Old, they are judged anew with the next claim; the score is entered meanwhile.
        assert claimer.command(["internal"])[FITS] == ",,"
        assert client.zscore(ranking, WORKER) is not None


def test_an_operator_sets_horizon_affinity_and_gathering(free_port: int):
    """§5.3: what the claim is told, µs."""
    url = f"redis://127.0.0.1:{free_port}/0"
    claimer = Claimer(Settings(broker_url=url, aging_horizon_s=60, affinity_s=5, gather_s=0.5), WORKER, None)
    sent = claimer.command(["internal"])
    assert sent[3 + 7 : 3 + 10] == ["60000000", "5000000", "500000"]
