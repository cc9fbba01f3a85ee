"""Checks of all nodes, devices and watched addresses, and what follows: states, cordons, alerts (SPEC H1-H5, F4)."""

from __future__ import annotations

import logging
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import celery

from gpu_mesh.domain import checkup
from gpu_mesh.domain.alerts import Alert, Level
from gpu_mesh.domain.checkup import Endpoint
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.domain.health import Finding, Health, State, check
from gpu_mesh.domain.holds import node_of
from gpu_mesh.engines import engines_for
from gpu_mesh.services import alerts, recovery
from gpu_mesh.settings import Settings
from gpu_mesh.store import availability, cordons, health, leases, nodes, server
from gpu_mesh.store.alerts import standing as standing_alerts
from gpu_mesh.store.client import connect, kept, mapped_errors
from gpu_mesh.store.health import DEVICE, ENDPOINT, NODE, Checked

__all__ = ["COMMAND", "FRESH_S", "HEALTH", "YIELD_S", "Answer", "Seen", "look", "read", "reconcile", "tick"]

logger = logging.getLogger(__name__)

#: The remote-control command that each worker's parent answers (workers/inspection).
COMMAND = "gpu_health"
#: How long answers are waited for, s: the parent has its report ready. Of a short interval, so much of it.
ANSWER_S, ANSWER_SHARE = 3.0, 0.5
#: A report of that age is as good as one of now, s; who has an older one is given so long to take another.
FRESH_S, AGAIN_S = 5.0, 1.0
#: The reason of a cordon of what is ill.
HEALTH = "health"
#: How long it holds unless it is renewed, in checks and s.
HOLD, HOLD_S = 3.0, 30.0
#: How long what runs on a device that becomes unhealthy may take to save and yield, s.
YIELD_S = 5.0
#: Renewals of its registration after which a node that is not heard of is missing.
UNHEARD = 1.5
#: Passed checks after which a node that was ill has its workers up again.
BACK = 3
#: Addresses that are asked at once.
AT_ONCE = 32
#: A report is too old after so many checks, and so many s: an engine may take its time to answer.
OLD, OLD_S = 2.0, 30.0
#: Pause between checks, in intervals and s, from which on silence says nothing: Redis or the lead was away, not the
#: nodes.
MISSED, MISSED_S = 2.0, 5.0

_LEVELS = {State.DEGRADED: Level.WARNING, State.UNHEALTHY: Level.ERROR, State.OFFLINE: Level.CRITICAL}
#: How long a worker may take to answer for the first time, s: it starts.
START_S = 30.0
#: The rule of alerts about who falls and recovers again and again.
FLAPPING = "flapping"


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


def reconcile(app: celery.Celery, settings: Settings) -> None:
    """A check at Redis's time, unless another one was begun lately. Raises BrokerUnavailable."""
    with mapped_errors(settings):
        client = kept(settings)
        if health.may_check(client, settings.health_every_s / 2):
            seen = look(app, client, settings)
            tick(client, settings, server.now(client), seen)


def read(settings: Settings) -> tuple[float, list[Checked]]:
    """What time it is by Redis's clock, s since the epoch, and how everybody was found by the last check, by kind and
    name. Raises BrokerUnavailable."""
    with mapped_errors(settings), connect(settings) as client:
        found = list(health.all_checked(client).values())
        return server.now(client), found


def look(app: celery.Celery, client: Any, settings: Settings) -> Seen:
    """Ask everybody at once. Takes twice ANSWER_S and AGAIN_S, or what an address may take, at most."""
    living = frozenset(leases.living(client))
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="watch") as pool:
        watched = [pool.submit(_probe, settings, *item) for item in settings.watch_urls.items()]
        answers = _ask_twice(app, sorted(living), min(ANSWER_S, ANSWER_SHARE * settings.health_every_s))
        endpoints = [one.result() for one in watched]
    return Seen(nodes.all_nodes(client), living, answers, endpoints)


def _ask_twice(app: celery.Celery, workers: Sequence[str], timeout_s: float) -> dict[str, Answer]:
    """Who had only an old report takes a new one because it was asked, and is asked again."""
    answers = _ask(app, workers, timeout_s)
    old = [name for name, one in answers.items() if (one.report.get("age_s") or 0.0) > FRESH_S]
    if not old:
        return answers
    time.sleep(AGAIN_S)
    return {**answers, **_ask(app, old, timeout_s)}


def _ask(app: celery.Celery, workers: Sequence[str], timeout_s: float) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    began = time.monotonic()

    def hear(body: Mapping[str, Any]) -> None:
        took_ms = (time.monotonic() - began) * 1000
        answers.update({name: Answer(told if isinstance(told, dict) else {}, took_ms) for name, told in body.items()})

    if workers:
        app.control.broadcast(
            COMMAND, destination=workers, reply=True, timeout=timeout_s, limit=len(workers), callback=hear
        )
    return answers


def _probe(settings: Settings, name: str, url: str) -> Endpoint:
    watched = Device(name=name, node="", kind=DeviceKind.ENDPOINT, gpu_type="", memory_gb=0.0, engine_url=url)
    status = engines_for(watched, settings)[0].check()
    return Endpoint(name, url, status.response_ms, status.error, tuple(model.name for model in status.models))


def tick(client: Any, settings: Settings, now: float, seen: Seen) -> None:
    """What a look found becomes states, cordons and alerts. `now`: s since the epoch."""
    before = health.all_checked(client)
    last = max((one.health.checked_at for one in before.values()), default=0.0)
    rested = now - last > MISSED * settings.health_every_s + MISSED_S
    after = {one.subject: one for one in _judged(settings, now, seen, before, rested=rested)}
    health.keep(client, after.values())
    _gate(client, settings, now, after.values())
    missing = {one.node.name for one in seen.nodes if one.silent_s > UNHEARD * settings.node_refresh_s}
    _tell(client, before, after, missing)
    _forget(client, seen, [one for name, one in before.items() if name not in after])
    recovery.tick(client, now, after.values())


def _judged(
    settings: Settings, now: float, seen: Seen, before: Mapping[str, Checked], *, rested: bool
) -> Iterable[Checked]:
    for entry in seen.nodes:
        if entry.left:
            continue
        name = entry.node.name
        answers = [answer for worker, answer in seen.answers.items() if node_of(worker) == name]
        silent = not entry.online(settings.node_ttl_s) and not answers
        system = next((dict(one.report.get("system") or {}) for one in answers), None)
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
    engines = [one for one in (report or {}).get("engines") or () if isinstance(one, dict)]
    reached = [one for one in engines if one.get("reachable") and one.get("url")]
    took = [float(one["ms"]) for one in reached if one.get("ms") is not None]
    ms = max(took, default=None if answer is None else answer.ms)
    models = tuple(str(model) for one in engines for model in one.get("models") or ())
    return _checked(before, now, DEVICE, device.worker, found, report=report, ms=ms, models=models)


def _starts(before: Mapping[str, Checked], now: float, worker: str) -> bool:
    """Whether a worker that never answered may still come."""
    was = before.get(health.subject(DEVICE, worker))
    return was is None or (was.health.state is State.UNKNOWN and now - was.health.since < START_S)


def _unjudged(before: Mapping[str, Checked], now: float, kind: str, name: str) -> Checked:
    """Somebody whose silence says nothing: he is as he was, neither ill nor mended."""
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


def _gate(client: Any, settings: Settings, now: float, checked: Iterable[Checked]) -> None:
    """Devices that are unhealthy or offline claim nothing, and what runs there moves. It ends by itself where nobody
    checks any more."""
    held = {one.name: one for one in cordons.all_cordons(client) if one.reason == HEALTH}
    hold_s = HOLD * settings.health_every_s + HOLD_S
    for one in checked:
        if one.kind != DEVICE:
            continue
        if not one.health.is_claimable:
            # As it began: words that change with each check would be told each time.
            why = held[one.name].why if one.name in held else _words(one.health)
            cordons.cordon(client, one.name, HEALTH, why=why, until=now + hold_s, yield_s=YIELD_S)
        elif one.name in held:
            cordons.lift(client, one.name, HEALTH)
            availability.back(client)  # submits of realtime work are taken again at once


def _tell(client: Any, before: Mapping[str, Checked], after: Mapping[str, Checked], missing: Container[str]) -> None:
    # What stands, not what was: a check may have died before it told.
    standing = {(one.rule, one.subject) for one in standing_alerts(client)}
    for one in after.values():
        was = before[one.subject].health if one.subject in before else Health()
        if one.health.flapping and not was.flapping:
            _tell_of_flapping(client, one, was)
        elif not one.health.flapping and (FLAPPING, one.name) in standing:
            alerts.clear(client, FLAPPING, one.name, "has been well for a while")
        # Its node's alert tells of it too, also while the node is coming up again.
        node = after.get(health.subject(NODE, node_of(one.name))) if one.kind == DEVICE else None
        covered = node is not None and (node.name in missing or (_is_back(node) and _has_no_worker(one)))
        if one.health.state is State.HEALTHY:
            if (one.kind, one.name) in standing:
                alerts.clear(client, one.kind, one.name, "is healthy")
        elif one.health.findings and not covered and not _is_silent_node(one):
            _tell_of_illness(client, one)


def _tell_of_flapping(client: Any, one: Checked, was: Health) -> None:
    falls = one.health.falls
    text = f"fails and recovers again and again: {len(falls)} times in {falls[-1] - falls[0] + 1} checks"
    remedy = f"it counts as degraded until it has passed for a while; last: {_words(was)}"
    alerts.post(client, Alert(rule=FLAPPING, subject=one.name, level=Level.WARNING, text=text, remedy=remedy))


def _tell_of_illness(client: Any, one: Checked) -> None:
    level = _LEVELS.get(one.health.state)
    if level is None:
        return
    remedy = next((finding.remedy for finding in one.health.findings if finding.remedy), "")
    text = f"is {one.health.state}: {_words(one.health)}"
    alerts.post(client, Alert(rule=one.kind, subject=one.name, level=level, text=text, remedy=remedy))


def _is_back(node: Checked) -> bool:
    """Whether it was ill until a few checks ago."""
    return node.health.failed > 0 and node.health.passed < BACK


def _has_no_worker(one: Checked) -> bool:
    return any(finding.what == "worker" for finding in one.health.findings)


def _is_silent_node(one: Checked) -> bool:
    """The fleet's rule tells of it, and sooner (services/fleet)."""
    return one.kind == NODE and any(finding.what == NODE for finding in one.health.findings)


def _words(state: Health) -> str:
    said = "; ".join(finding.text for finding in state.findings)
    return f"{said} ({state.strikes} strike{'s' if state.strikes > 1 else ''})" if state.strikes else said


def _forget(client: Any, seen: Seen, gone: Sequence[Checked]) -> None:
    """Who left in order, or is offered and watched no more, is not ill."""
    left = {entry.node.name for entry in seen.nodes if entry.left}
    for one in gone:
        node = one.name if one.kind == NODE else node_of(one.name)
        how = "left in order" if node in left else "is no longer part of the mesh"
        for rule in (one.kind, FLAPPING):
            alerts.clear(client, rule, one.name, how)
        if one.kind == DEVICE:
            cordons.lift(client, one.name, HEALTH)
        logger.info("%s %s", one.subject, how, extra={"action": "forget", "subject": one.subject})
    health.forget(client, [one.subject for one in gone])
