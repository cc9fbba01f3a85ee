"""What is measured of the control plane: workers, alerts, checks, beat, Redis."""

from __future__ import annotations

from collections import Counter

from gpu_mesh.api.metrics.table import Families
from gpu_mesh.domain.alert_rules import RULES
from gpu_mesh.domain.queues import CONTROL_QUEUE
from gpu_mesh.services import windows
from gpu_mesh.settings import Settings
from gpu_mesh.store.scrape import Scrape

__all__ = ["measure"]

#: Entries of the schedule that are told of, the first by name.
ENTRIES = 50
#: Alerts of rules that are not ours.
OTHER = "other"
#: Names of workers that serve no device; the others do.
KINDS = (CONTROL_QUEUE, "cpu")


def measure(into: Families, seen: Scrape, settings: Settings) -> None:
    """All of it."""
    now = seen.now
    into.put("window_peak", float(windows.is_peak(seen.plan or windows.own_plan(settings), now)))
    into.put("realtime_available", float(seen.outage is None))
    into.put("realtime_look_age_seconds", None if seen.watch is None else _age(now, seen.watch.looked_at))
    _workers(into, seen)
    _alerts(into, seen)
    checks = [one.health.checked_at for one in seen.checked.values() if one.health.checked_at]
    into.put("health_check_age_seconds", _age(now, max(checks)) if checks else None)
    into.put("beat_leading", float(seen.beat is not None))
    for entry, due in sorted(seen.runs.items())[:ENTRIES]:
        into.put("beat_entry_age_seconds", _age(now, due), entry)
    for name, tick in seen.ticks.items():
        into.put("tick_runs_total", tick.runs, name)
        into.put("tick_failures_total", tick.failed, name)
        into.put("tick_seconds_total", tick.total_s, name)
        into.put("tick_last_seconds", tick.last_s, name)
        into.put("tick_late_seconds", tick.late_s, name)
        into.put("tick_age_seconds", _age(now, tick.at), name)
    if seen.memory is not None:
        into.put("redis_memory_used_bytes", seen.memory.used)
        into.put("redis_memory_limit_bytes", seen.memory.limit or None)
    into.put("redis_clients", seen.clients)


def _workers(into: Families, seen: Scrape) -> None:
    count = Counter({"device": 0, **dict.fromkeys(KINDS, 0)})
    for worker, ends in seen.leases.items():
        # Redis was away: nobody can tell of whom no lease holds.
        if ends > seen.now or seen.now <= seen.grace:
            name = worker.partition("@")[0]
            count[name if name in KINDS else "device"] += 1
    for kind, living in count.items():
        into.put("workers", living, kind)


def _alerts(into: Families, seen: Scrape) -> None:
    found = Counter({(name, level): 0 for name, rule in RULES.items() for level in rule.levels})
    for one in seen.alerts:
        found[one.rule if one.rule in RULES else OTHER, one.level.name] += 1
    for labels, count in found.items():
        into.put("alerts", count, *labels)
    into.put("alert_notices", seen.notices)


def _age(now: float, then: float) -> float:
    return max(0.0, now - then)
