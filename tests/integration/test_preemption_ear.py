"""A worker's ear for preemption, on a real Redis (DESIGN §7)."""

from __future__ import annotations

from gpu_mesh.services.preemption import Ear
from gpu_mesh.settings import settings


def test_a_wait_ends_when_another_job_begins(broker: str):
    """Found by the realtime benchmark: who came just after a job had begun waited for the next look, up to 1 s."""
    ear = Ear(settings(), "gpu0@node", None)
    begun = iter([False, True])
    assert ear.wait(3600.0, lambda: next(begun)) is None
    assert next(begun, "no more") == "no more"
    ear.close()
