"""What is measured of queues, claims and models."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate

from prometheus_client.utils import floatToGoString

from gpu_mesh.api.metrics.table import Families
from gpu_mesh.domain.holds import HELD_QUEUE, MESH
from gpu_mesh.domain.queues import GPU_QUEUES, Band
from gpu_mesh.domain.stats import BOUNDS_S, RUNS, Outcome
from gpu_mesh.services import gates, windows
from gpu_mesh.store import keys
from gpu_mesh.store.counters import OTHERS, Counts
from gpu_mesh.store.scrape import Scrape

__all__ = ["MODELS", "OTHER", "measure"]

#: Models that are told of one by one; the first by name, so that what is told of the others together never falls.
MODELS = 100
#: What stands for all the others.
OTHER = "other"
#: Reasons of gates; one that is new goes by OTHER.
REASONS = (gates.MANUAL, windows.REASON, gates.USAGE, gates.HEALTH)
REFUSED = ("lease", "cordon", "sibling")
_BOUNDS = (*map(floatToGoString, BOUNDS_S), "+Inf")


def measure(into: Families, seen: Scrape) -> None:
    """All of it."""
    queues = list(seen.waiting)
    running = Counter(keys.queue_of(one.claim.list) for one in seen.holdings)
    for queue in queues:
        into.put("queue_waiting", seen.waiting[queue], queue)
        into.put("queue_oldest_seconds", max(0.0, seen.now - seen.oldest.get(queue, seen.now)), queue)
        into.put("queue_running", running[queue], queue)
    into.put("tasks_delayed", seen.delayed)
    into.put("dead_letters", seen.dead)
    _gates(into, seen, queues)
    _counted(into, seen.stats, queues)
    _runs(into, seen, queues)
    _models(into, seen.counts)


def _gates(into: Families, seen: Scrape, queues: Sequence[str]) -> None:
    reasons = (*REASONS, gates.REALTIME)
    found = Counter({(queue, reason, gates.WHOLE_MESH): 0 for queue in GPU_QUEUES for reason in reasons})
    for gate in seen.gates:
        found[_known(gate.queue, queues), _known(gate.reason, REASONS), _kind(gate.scope)] += 1
    for scope in seen.held_back:
        found[HELD_QUEUE, gates.REALTIME, _kind(scope)] += 1
    for (queue, reason, scope), count in found.items():
        into.put("queue_gates", count, queue, reason, scope)
    closed = {queue for (queue, _, scope), count in found.items() if count and scope == gates.WHOLE_MESH}
    for queue in GPU_QUEUES:
        into.put("queue_closed", float(queue in closed), queue)


def _kind(scope: str) -> str:
    if scope == MESH:
        return gates.WHOLE_MESH
    return "device" if "@" in scope else "node"


def _counted(into: Families, stats: Mapping[str, int], queues: Sequence[str]) -> None:
    into.put("model_swaps_saved_total", stats.get("swaps_saved", 0))
    into.put("leases_ended_total", stats.get("leases_ended", 0))
    for outcome in ("requeued", "dead"):
        into.put("claims_reaped_total", stats.get(f"claims_{outcome}", 0), outcome)
    for reason in REFUSED:
        into.put("claims_refused_total", stats.get(f"refused|{reason}", 0), reason)
    closings = Counter({(queue, reason): 0 for queue in GPU_QUEUES for reason in REASONS})
    for field, count in stats.items():
        what, _, which = field.partition("|")
        queue, _, reason = which.partition("|")
        if what == "closed":
            closings[_known(queue, queues), _known(reason, REASONS)] += count
    for labels, count in closings.items():
        into.put("queue_closings_total", count, *labels)


def _runs(into: Families, seen: Scrape, queues: Sequence[str]) -> None:
    counts = seen.counts
    # All of them from the start: what begins with 1 is no increase to Prometheus.
    ended = Counter({(queue, band.value, one.value): 0 for queue in queues for band in Band for one in Outcome})
    waited, ran = defaultdict[tuple[str, str], float](float), defaultdict[tuple[str, str], float](float)
    for (name, band, outcome, _), runs in counts.runs.items():
        queue = _known(name, queues)
        ended[queue, band, outcome.value] += runs.count
        if outcome in RUNS:
            waited[queue, band] += runs.waited_s
            ran[queue, band] += runs.ran_s
    for labels, count in sorted(ended.items()):
        into.put("runs_total", count, *labels)
    for name, kept, sums in (("task_wait_seconds", counts.waits, waited), ("task_run_seconds", counts.times, ran)):
        summed: dict[tuple[str, str], Counter[int]] = {}
        for (its, band), buckets in kept.items():
            summed.setdefault((_known(its, queues), band), Counter()).update(buckets)
        for its_labels, buckets in sorted(summed.items()):
            into.put_times(name, _cumulative(buckets), sums[its_labels], *its_labels)
    preempted = Counter(dict.fromkeys(GPU_QUEUES, 0))
    for (name, _), count in seen.preempted.items():
        preempted[_known(name, queues)] += count
    for queue, count in preempted.items():
        into.put("preemptions_total", count, queue)


def _cumulative(buckets: Mapping[int, int]) -> list[tuple[str, float]]:
    sums = accumulate(buckets.get(number, 0) for number in range(len(_BOUNDS)))
    return list(zip(_BOUNDS, map(float, sums), strict=True))


def _models(into: Families, counts: Counts) -> None:
    names = sorted({model for model, _, _ in counts.models} - {OTHERS})
    runs, seconds = Counter[tuple[str, str]](), dict.fromkeys(names[:MODELS], 0.0)
    known = frozenset(seconds)
    into.put("left_out", max(0, len(names) - MODELS), "models")
    for (name, _, outcome), its in counts.models.items():
        model = _known(name, known)
        runs[model, outcome.value] += its.buckets.total()
        seconds[model] = seconds.get(model, 0.0) + its.ran_s
    for labels, count in sorted(runs.items()):
        into.put("model_runs_total", count, *labels)
    for model, ran_s in sorted(seconds.items()):
        into.put("model_run_seconds_total", ran_s, model)


def _known(name: str, names: Collection[str]) -> str:
    return name if name in names else OTHER
