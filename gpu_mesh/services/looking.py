"""One look at the mesh: every worker is asked for its report, every watched address whether it answers (SPEC H1)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import celery

from gpu_mesh.domain.checkup import Endpoint
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.domain.untyped import mapping, number
from gpu_mesh.engines import engines_for
from gpu_mesh.settings import Settings
from gpu_mesh.store import leases, nodes

__all__ = ["COMMAND", "FRESH_S", "Answer", "Seen", "look"]

#: The remote-control command that each worker's parent answers (services/inspection).
COMMAND = "gpu_health"
#: How long answers are waited for, s: the parent has its report ready. Of a short interval, so much of it.
ANSWER_S, ANSWER_SHARE = 3.0, 0.5
#: A report of that age is as good as one of now, s; who has an older one is given so long to take another.
FRESH_S, AGAIN_S = 5.0, 1.0
#: Addresses that are asked at once.
AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Answer:
    """A worker's report, and how long it took to come, ms."""

    report: Mapping[str, Any]
    ms: float


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look at the mesh found."""

    nodes: Sequence[nodes.NodeEntry]
    #: Workers whose lease holds.
    living: frozenset[str]
    #: By worker.
    answers: Mapping[str, Answer] = field(default_factory=dict)
    endpoints: Sequence[Endpoint] = ()


def look(app: celery.Celery, client: Any, settings: Settings) -> Seen:
    """Ask everybody at once. Takes twice ANSWER_S and AGAIN_S, or what an address may take, at most."""
    living = frozenset(leases.living(client))
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="watch") as pool:
        watched = [pool.submit(_probe, settings, *item) for item in settings.watch_urls.items()]
        answers = _ask_twice(app, sorted(living), min(ANSWER_S, ANSWER_SHARE * settings.health_every_s))
        endpoints = [one.result() for one in watched]
    return Seen(nodes.all_nodes(client), living, answers, endpoints)


def _ask_twice(app: celery.Celery, workers: Sequence[str], timeout_s: float) -> dict[str, Answer]:
    """Who had only an old report takes a new one because it was asked, and is asked again. So is who did not answer: it
    may have been Redis that froze for a moment."""
    answers = _ask(app, workers, timeout_s)
    again = [name for name in workers if name not in answers or _age_s(answers[name]) > FRESH_S]
    if not again:
        return answers
    time.sleep(min(AGAIN_S, timeout_s))
    return {**answers, **_ask(app, again, timeout_s)}


def _age_s(answer: Answer) -> float:
    return number(answer.report.get("age_s")) or 0.0


def _ask(app: celery.Celery, workers: Sequence[str], timeout_s: float) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    began = time.monotonic()

    def hear(body: Mapping[str, Any]) -> None:
        took_ms = (time.monotonic() - began) * 1000
        answers.update({name: Answer(mapping(told), took_ms) for name, told in body.items()})

    if workers:
        app.control.broadcast(
            COMMAND, destination=workers, reply=True, timeout=timeout_s, limit=len(workers), callback=hear
        )
    return answers


def _probe(settings: Settings, name: str, url: str) -> Endpoint:
    watched = Device(name=name, node="", kind=DeviceKind.ENDPOINT, gpu_type="", memory_gb=0.0, engine_url=url)
    status = engines_for(watched, settings)[0].check()
    return Endpoint(name, url, status.response_ms, status.error, tuple(model.name for model in status.models))
