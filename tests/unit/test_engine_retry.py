"""A batch job whose engine is silent while Redis is away (SPEC R4; DESIGN §9)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from celery.app.task import Context

from gpu_mesh.errors import BrokerUnavailable, EngineUnavailable
from gpu_mesh.tasks import engine_loss
from gpu_mesh.tasks.checkpointing import HandBack, Preempted


class Job:
    """What the rule needs of a task; sending it again fails as in an outage."""

    device = object()
    request = Context({"id": "a", "retries": 0, "delivery_info": {"routing_key": "ai-batch"}})

    def signature_from_request(self, *_: Any, **__: Any) -> Any:
        return SimpleNamespace(options={}, apply_async=self.send)

    def send(self) -> None:
        raise BrokerUnavailable("away")

    def _yielded(self, exc: Preempted) -> HandBack:
        return HandBack(exc.reason, exc.counts)


def test_a_batch_job_that_cannot_be_sent_again_is_handed_back():
    """It is tried again, not failed; the delivery counts, so that a Redis that stays full does not run it for ever."""
    ended = engine_loss.instead(Job(), EngineUnavailable("silent"))
    assert isinstance(ended, HandBack)
    assert (ended.reason, ended.counts) == ("away", True)
