"""The statistics report: what ended in a span of time, how long it waited and ran, and what it cost (SPEC H3, H8, P4).

docs/statistics.md has every figure, its formula and unit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from gpu_mesh.domain.device import Device
from gpu_mesh.domain.holds import node_of
from gpu_mesh.domain.stats import ENDS, FAILURES, RUNS, Outcome, busy_share, cost, failure_share, mean, quantile
from gpu_mesh.services.health_views import DEVICE, NODE, HealthView, health_views, subject
from gpu_mesh.services.lookup import running_entries
from gpu_mesh.services.stats_views import DeviceReport, ModelReport, NodeReport, QueueReport, Report, Times
from gpu_mesh.settings import Settings
from gpu_mesh.store import counters, nodes, stats
from gpu_mesh.store.client import connect, mapped_errors
from gpu_mesh.store.counters import Counts

__all__ = ["failures", "report"]


def failures(client: Any, span_s: float) -> tuple[int, int]:
    """Of the tasks that ended in the last `span_s`, how many failed, and how many there were. Cancelled ones do not
    count; those that went to the dead letters failed. Raises BrokerUnavailable."""
    outcomes = counters.read(client, span_s).outcomes()
    return sum(outcomes.get(one, 0) for one in FAILURES), sum(outcomes.get(one, 0) for one in ENDS)


def report(settings: Settings, span_s: float, *, whole_minutes: bool = False) -> Report:
    """What ended in the last `span_s`, up to a day; or in its last whole minutes, so that reports do not overlap.

    Raises BrokerUnavailable.
    """
    with mapped_errors(settings), connect(settings) as client:
        counts = counters.last_minutes(client, int(span_s // 60)) if whole_minutes else counters.read(client, span_s)
        entries = nodes.all_nodes(client)
        checked = health_views(client)
        saved = stats.read(client)["swaps_saved"]
    running = _running_s(running_entries(settings), counts)
    devices = {device.worker: device for entry in entries for device in entry.node.devices}
    workers = _workers(counts, devices, running, checked)
    found = [
        _node(entry.node.name, entry.online(settings.node_ttl_s), workers, checked)
        for entry in entries
        if not entry.left or any(node_of(one.worker) == entry.node.name for one in workers)
    ]
    known = {one.node for one in found}
    strangers = sorted({node_of(one.worker) for one in workers} - known)
    found += [_node(name, False, workers, checked) for name in strangers]
    outcomes = counts.outcomes()
    ended = sum(outcomes.get(one, 0) for one in ENDS)
    return Report(
        since=counts.since,
        until=counts.until,
        outcomes=_named(outcomes),
        failure_share=failure_share(outcomes),
        per_minute=ended * 60 / counts.span_s,
        preemptions=outcomes.get(Outcome.PREEMPTED, 0),
        swaps=sum(counts.swaps.values()),
        swaps_saved=saved,
        busy_share=_mean_busy(one for node in found if node.online for one in node.devices),
        cost=sum(one.cost or 0.0 for one in workers),
        queues=[_queue(counts, name) for name in sorted({queue for queue, *_ in counts.runs})],
        nodes=found,
        models=_models(counts, devices),
    )


def _running_s(entries: Iterable[Mapping[str, Any]], counts: Counts) -> dict[str, float]:
    """How long each worker has been running what it runs, within the span, s."""
    found: dict[str, float] = {}
    for entry in entries:
        ran_s = max(0.0, counts.until - max(float(entry["started_at"]), counts.since))
        for worker in map(str, (entry["worker"], *entry["siblings"])):
            found[worker] = found.get(worker, 0.0) + ran_s
    return found


def _workers(
    counts: Counts, devices: Mapping[str, Device], running: Mapping[str, float], checked: Mapping[str, HealthView]
) -> list[DeviceReport]:
    """Every device that is registered, and every worker that did something."""
    did = {worker for *_, worker in counts.runs} | counts.served.keys() | counts.swaps.keys()
    found = []
    for worker in sorted(devices.keys() | did):
        device = devices.get(worker)
        outcomes = counts.outcomes(worker=worker)
        ran_s = sum(runs.ran_s for (*_, its), runs in counts.runs.items() if its == worker)
        served_s = counts.served.get(worker, 0.0)
        found.append(
            DeviceReport(
                worker=worker,
                gpu_type=None if device is None else device.gpu_type,
                outcomes=_named(outcomes),
                failure_share=failure_share(outcomes),
                ran_s=ran_s,
                served_s=served_s,
                busy_share=busy_share(ran_s + served_s, running.get(worker, 0.0), counts.span_s),
                swaps=counts.swaps.get(worker, 0),
                cost=None if device is None else cost(ran_s + served_s, device.cost_per_hour),
                condition=checked.get(subject(DEVICE, worker)),
            )
        )
    return found


def _node(name: str, online: bool, workers: Iterable[DeviceReport], checked: Mapping[str, HealthView]) -> NodeReport:
    devices = [one for one in workers if node_of(one.worker) == name]
    outcomes: Counter[str] = Counter()
    for device in devices:
        outcomes.update(device.outcomes)
    costs = [device.cost for device in devices if device.cost is not None]
    return NodeReport(
        node=name,
        online=online,
        outcomes=dict(outcomes),
        failure_share=failure_share({Outcome(one): count for one, count in outcomes.items()}),
        busy_share=_mean_busy(devices),
        swaps=sum(device.swaps for device in devices),
        cost=sum(costs) if costs else None,
        devices=devices,
        condition=checked.get(subject(NODE, name)),
    )


def _mean_busy(workers: Iterable[DeviceReport]) -> float | None:
    """Of those that have a device."""
    shares = [one.busy_share for one in workers if one.gpu_type is not None]
    return mean(sum(shares), len(shares))


def _queue(counts: Counts, queue: str) -> QueueReport:
    outcomes = counts.outcomes(queue=queue)
    # Those that histograms have.
    runs = [runs for (its, _, outcome, _), runs in counts.runs.items() if its == queue and outcome in RUNS]
    waits, times = (
        sum((buckets for (its, _), buckets in kept.items() if its == queue), Counter[int]())
        for kept in (counts.waits, counts.times)
    )
    return QueueReport(
        queue=queue,
        outcomes=_named(outcomes),
        failure_share=failure_share(outcomes),
        waited=_times(waits, sum(one.waited_s for one in runs)),
        ran=_times(times, sum(one.ran_s for one in runs)),
    )


def _models(counts: Counts, devices: Mapping[str, Device]) -> list[ModelReport]:
    found = []
    for model, worker in sorted({(model, worker) for model, worker, _ in counts.models}):
        its = {one: counts.models[model, worker, one] for one in Outcome if (model, worker, one) in counts.models}
        outcomes = {outcome: runs.buckets.total() for outcome, runs in its.items()}
        ended = {outcome: runs for outcome, runs in its.items() if outcome in RUNS}
        device = devices.get(worker)
        spent = None if device is None else cost(sum(runs.ran_s for runs in its.values()), device.cost_per_hour)
        done = outcomes.get(Outcome.SUCCESS, 0)
        found.append(
            ModelReport(
                model=model,
                worker=worker,
                gpu_type=None if device is None else device.gpu_type,
                outcomes=_named(outcomes),
                failure_share=failure_share(outcomes),
                ran=_times(
                    sum((runs.buckets for runs in ended.values()), Counter[int]()),
                    sum(runs.ran_s for runs in ended.values()),
                ),
                cost_per_task=None if spent is None else mean(spent, done),
            )
        )
    return found


def _times(buckets: Counter[int], total: float) -> Times:
    return Times(mean(total, buckets.total()), *(quantile(buckets, q) for q in (0.5, 0.95, 0.99)))


def _named(outcomes: Mapping[Outcome, int]) -> dict[str, int]:
    return {outcome.value: outcomes[outcome] for outcome in Outcome if outcome in outcomes}
