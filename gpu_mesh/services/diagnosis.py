"""What one look at the mesh says of each node, device and watched address (SPEC H1-H3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gpu_mesh.domain import checkup
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.domain.health import Finding, Health, State, check
from gpu_mesh.domain.holds import node_of
from gpu_mesh.domain.untyped import mapping, number, sequence
from gpu_mesh.services.looking import Seen
from gpu_mesh.settings import Settings
from gpu_mesh.store import health
from gpu_mesh.store.health import DEVICE, ENDPOINT, NODE, Checked

__all__ = ["diagnose"]

#: A report is too old after so many checks, and so many s: an engine may take its time to answer.
OLD, OLD_S = 2.0, 30.0
#: Pause between checks, in intervals and s, from which on silence says nothing: Redis or the lead was away, not the
#: nodes.
MISSED, MISSED_S = 2.0, 5.0
#: How long a worker may take to answer for the first time, s: it starts.
START_S = 30.0


def diagnose(settings: Settings, now: float, seen: Seen, before: Mapping[str, Checked]) -> Iterator[Checked]:
    """Everybody who is part of the mesh, as this look found them. `now`: s since the epoch."""
    last = max((one.health.checked_at for one in before.values()), default=0.0)
    rested = now - last > MISSED * settings.health_every_s + MISSED_S
    for entry in seen.nodes:
        if entry.left:
            continue
        name = entry.node.name
        answers = [answer for worker, answer in seen.answers.items() if node_of(worker) == name]
        silent = not entry.online(settings.node_ttl_s) and not answers
        system = next((mapping(one.report.get("system")) for one in answers), None)
        found = checkup.of_node(system, silent_s=entry.silent_s if silent else None)
        ms = min((answer.ms for answer in answers), default=None)
        if silent and rested:
            yield _unjudged(before, now, NODE, name)
        else:
            yield _checked(before, now, NODE, name, found, report=system, ms=ms)
        for device in entry.node.devices:
            yield _device(settings, before, now, seen, device, rested=rested)
    for endpoint in seen.endpoints:
        ms = endpoint.ms if endpoint.error is None else None
        found = checkup.of_endpoint(endpoint)
        yield _checked(before, now, ENDPOINT, endpoint.name, found, ms=ms, models=endpoint.models, url=endpoint.url)


def _device(
    settings: Settings, before: Mapping[str, Checked], now: float, seen: Seen, device: Device, *, rested: bool
) -> Checked:
    answer = seen.answers.get(device.worker)
    if answer is None and (rested or _starts(before, now, device.worker)):
        return _unjudged(before, now, DEVICE, device.worker)
    report = None if answer is None else answer.report
    where = "remote" if device.kind is DeviceKind.ENDPOINT else "local"
    is_gpu = device.kind in (DeviceKind.NVIDIA, DeviceKind.APPLE, DeviceKind.ENDPOINT)
    found = checkup.of_device(
        report,
        is_alive=device.worker in seen.living,
        is_gpu=is_gpu,
        where=where,
        old_s=OLD * settings.health_every_s + OLD_S,
    )
    engines = [mapping(one) for one in sequence((report or {}).get("engines"))]
    reached = [one for one in engines if one.get("reachable") and one.get("url")]
    took = [ms for one in reached if (ms := number(one.get("ms"))) is not None]
    ms = max(took, default=None if answer is None else answer.ms)
    models = tuple(str(model) for one in engines for model in sequence(one.get("models")))
    if len(reached) < sum(bool(one.get("url")) for one in engines):
        # A silent engine names none, and has them still.
        models = tuple(dict.fromkeys((*_known_models(before, device.worker), *models)))
    return _checked(before, now, DEVICE, device.worker, found, report=report, ms=ms, models=models)


def _known_models(before: Mapping[str, Checked], worker: str) -> tuple[str, ...]:
    was = before.get(health.subject(DEVICE, worker))
    return () if was is None else was.models


def _starts(before: Mapping[str, Checked], now: float, worker: str) -> bool:
    """Whether a worker that never answered may still come."""
    was = before.get(health.subject(DEVICE, worker))
    return was is None or (was.health.state is State.UNKNOWN and now - was.health.since < START_S)


def _unjudged(before: Mapping[str, Checked], now: float, kind: str, name: str) -> Checked:
    """Somebody whose silence says nothing: as before, neither ill nor mended."""
    subject = health.subject(kind, name)
    old = before.get(subject, Checked(subject, Health(since=now)))
    return replace(old, health=replace(old.health, checked_at=now), response_ms=None)


def _checked(
    before: Mapping[str, Checked],
    now: float,
    kind: str,
    name: str,
    found: Sequence[Finding],
    *,
    report: Mapping[str, Any] | None = None,
    ms: float | None = None,
    models: tuple[str, ...] = (),
    url: str | None = None,
) -> Checked:
    subject = health.subject(kind, name)
    old = before.get(subject, Checked(subject, Health()))
    return Checked(
        subject,
        check(old.health, now, found),
        response_ms=None if ms is None else round(ms, 1),
        models=models if report is not None or url is not None else old.models,
        report=report if report is not None else old.report,
        url=url,
    )
