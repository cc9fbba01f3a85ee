"""Every metric there is: docs/metrics.md has the same table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

__all__ = ["MESH", "OWN", "TABLE", "Families", "Row"]

PREFIX = "gpumesh_"
COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"


@dataclass(frozen=True, slots=True)
class Row:
    """One of them. `name` without PREFIX; `unit` as people say it, empty for plain counts and states."""

    name: str
    kind: str
    labels: tuple[str, ...]
    unit: str
    help: str

    @property
    def full(self) -> str:
        """The name as Prometheus has it."""
        return PREFIX + self.name


def _row(name: str, kind: str, labels: str, unit: str, text: str) -> Row:
    return Row(name, kind, tuple(labels.split()), unit, text)


_MESH = (
    _row("up", GAUGE, "", "", "1 while Redis answers; 0, and nothing of the mesh, while it does not"),
    _row("read_seconds", GAUGE, "", "s", "How long it took to read the mesh from Redis for this answer"),
    _row("left_out", GAUGE, "of", "", "How many nodes, devices or models are too many to be told of one by one"),
    _row("window_peak", GAUGE, "", "", "1 in peak hours, in which ai-batch is closed"),
    _row("realtime_available", GAUGE, "", "", "0 while ai-realtime is refused, for nobody can do it"),
    _row("realtime_look_age_seconds", GAUGE, "", "s", "How long ago the control worker looked whether somebody can"),
)
_QUEUES = (
    _row("queue_waiting", GAUGE, "queue", "", "Tasks that wait"),
    _row(
        "queue_oldest_seconds", GAUGE, "queue", "s", "How long the one has waited that waits longest; 0 where none does"
    ),
    _row("queue_running", GAUGE, "queue", "", "Tasks that run: claims that workers hold"),
    _row("queue_closed", GAUGE, "queue", "", "1 while the whole mesh may not claim from it, for whatever reason"),
    _row("queue_gates", GAUGE, "queue reason scope", "", "Reasons that close it now, by where: mesh, node or device"),
    _row("queue_closings_total", COUNTER, "queue reason", "", "How often it was closed for a reason, anywhere"),
    _row("tasks_delayed", GAUGE, "", "", "Tasks whose time has not come"),
    _row("dead_letters", GAUGE, "", "", "Messages that cannot be run"),
    _row("runs_total", COUNTER, "queue band outcome", "", "Claims that ended, by how; see docs/statistics.md"),
    _row("task_wait_seconds", HISTOGRAM, "queue band", "s", "What runs waited that came to their own end"),
    _row("task_run_seconds", HISTOGRAM, "queue band", "s", "How long they ran"),
    _row("preemptions_total", COUNTER, "queue", "", "Jobs that made room for more urgent ones"),
    _row(
        "claims_refused_total", COUNTER, "reason", "", "Claims refused to a worker: no lease, a cordon, a sibling's job"
    ),
    _row("claims_reaped_total", COUNTER, "outcome", "", "Claims taken from dead workers: requeued, or dead letters"),
    _row("leases_ended_total", COUNTER, "", "", "Workers that were not heard of for a lease: failovers of a machine"),
    _row("model_swaps_saved_total", COUNTER, "", "", "Claims that went first because their model was loaded"),
    _row("model_runs_total", COUNTER, "model outcome", "", "Runs whose needs name a model"),
    _row("model_run_seconds_total", COUNTER, "model", "s", "How long these ran"),
)
_NODES = (
    _row("node_info", GAUGE, "node role version", "", "1 for each node that is known"),
    _row("node_online", GAUGE, "node", "", "1 while it was heard of lately"),
    _row("node_left", GAUGE, "node", "", "1 where it said goodbye"),
    _row("node_silent_seconds", GAUGE, "node", "s", "How long it was not heard of"),
    _row("node_state", GAUGE, "node state", "", "1 for the state its last check found, 0 for the others"),
    _row("node_score_ratio", GAUGE, "node", "0-1", "Uptime score by its checks"),
    _row("node_cordoned", GAUGE, "node", "", "1 while it claims nothing: drained, or ill"),
    _row("node_load_ratio", GAUGE, "node", "0-1", "Load of one minute per core"),
    _row("node_memory_used_ratio", GAUGE, "node", "0-1", "Share of its memory in use"),
    _row("node_disk_used_ratio", GAUGE, "node", "0-1", "Share of the disk with its state in use"),
    _row("node_clock_skew_seconds", GAUGE, "node", "s", "Its clock less Redis's"),
)
_DEVICES = (
    _row("device_info", GAUGE, "node device kind gpu_type", "", "1 for each device of a node that did not leave"),
    _row("device_busy", GAUGE, "node device", "", "1 while it serves a job"),
    _row("device_cordoned", GAUGE, "node device", "", "1 while it claims nothing, its node's reasons included"),
    _row("device_lease_seconds", GAUGE, "node device", "s", "How long its worker's lease holds; 0 where it has none"),
    _row("device_state", GAUGE, "node device state", "", "1 for the state its last check found, 0 for the others"),
    _row("device_score_ratio", GAUGE, "node device", "0-1", "Uptime score by its checks"),
    _row("device_strikes", GAUGE, "node device", "", "Failed checks in a row"),
    _row("device_response_seconds", GAUGE, "node device", "s", "How long its engine, else its worker, took to answer"),
    _row("device_models_loaded", GAUGE, "node device", "", "Models that its engine has loaded"),
    _row("device_memory_total_bytes", GAUGE, "node device", "bytes", "Memory that jobs may use at most"),
    _row("device_memory_used_bytes", GAUGE, "node device", "bytes", "What of it is in use, whoever holds it"),
    _row("device_memory_held_bytes", GAUGE, "node device", "bytes", "Held by neither us nor the engine"),
    _row("device_utilisation_ratio", GAUGE, "node device", "0-1", "Share of time in which it computed"),
    _row("device_temperature_celsius", GAUGE, "node device", "°C", "Its temperature"),
    _row("device_power_watts", GAUGE, "node device", "W", "What it draws"),
    _row("device_runs_total", COUNTER, "node device outcome", "", "Claims of its worker that ended, by how"),
    _row("device_busy_seconds_total", COUNTER, "node device", "s", "What its runs took that ended, siblings' included"),
    _row("device_model_swaps_total", COUNTER, "node device", "", "Claims whose model was not the one it had loaded"),
    _row("endpoint_state", GAUGE, "endpoint state", "", "1 for the state of a watched address, 0 for the others"),
)
_CONTROL = (
    _row("workers", GAUGE, "kind", "", "Workers whose lease holds: device, control or cpu"),
    _row("alerts", GAUGE, "rule level", "", "Alerts that stand; see docs/alerts.md"),
    _row("alert_notices", GAUGE, "", "", "Notices that no channel has taken yet"),
    _row("health_check_age_seconds", GAUGE, "", "s", "How long ago somebody was checked last"),
    _row("beat_leading", GAUGE, "", "", "1 while a beat leads"),
    _row("beat_entry_age_seconds", GAUGE, "entry", "s", "How long ago an entry of the schedule was due last"),
    _row("tick_runs_total", COUNTER, "tick", "", "Runs of the mesh's own periodic work"),
    _row("tick_failures_total", COUNTER, "tick", "", "Those that failed"),
    _row("tick_seconds_total", COUNTER, "tick", "s", "What all of them took"),
    _row("tick_last_seconds", GAUGE, "tick", "s", "What the last one took"),
    _row("tick_late_seconds", GAUGE, "tick", "s", "How late the last one began"),
    _row("tick_age_seconds", GAUGE, "tick", "s", "How long ago the last one ended"),
    _row("redis_memory_used_bytes", GAUGE, "", "bytes", "Memory that Redis uses"),
    _row("redis_memory_limit_bytes", GAUGE, "", "bytes", "Its maxmemory, or without one its machine's memory"),
    _row("redis_clients", GAUGE, "", "", "Connections that Redis has"),
)
#: Of the mesh: every API of it tells the same.
MESH: tuple[Row, ...] = (*_MESH, *_QUEUES, *_NODES, *_DEVICES, *_CONTROL)
#: Of the process that is asked; beside them stand process_* as prometheus-client has them.
OWN: tuple[Row, ...] = (
    _row("build_info", GAUGE, "version", "", "1, with the version of this API"),
    _row("http_requests_total", COUNTER, "method route status", "", "Requests that this API answered"),
    _row("http_request_seconds", HISTOGRAM, "method route", "s", "How long until its answer began"),
    _row("http_requests_open", GAUGE, "", "", "Requests that it is answering now"),
)
TABLE: tuple[Row, ...] = (*MESH, *OWN)

_Family = GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily
_KINDS: dict[str, type[_Family]] = {
    GAUGE: GaugeMetricFamily,
    COUNTER: CounterMetricFamily,
    HISTOGRAM: HistogramMetricFamily,
}
_ROWS = {row.name: row for row in MESH}


class Families:
    """Samples of MESH, as they are put in."""

    def __init__(self) -> None:
        self._found: dict[str, _Family] = {}

    def put(self, name: str, value: float | None, *labels: str) -> None:
        """One sample; None: there is none to be had."""
        if value is not None:
            family = self._found.get(name) or self._begin(name)
            assert not isinstance(family, HistogramMetricFamily)
            family.add_metric(labels, value)

    def put_state(self, name: str, states: Sequence[str], state: str, *labels: str) -> None:
        """1 for that state, 0 for the others."""
        for one in states:
            self.put(name, float(one == state), *labels, one)

    def put_times(self, name: str, buckets: Sequence[tuple[str, float]], total: float, *labels: str) -> None:
        """A histogram: upper bound → how many are not above it, +Inf last; and the sum."""
        family = self._found.get(name) or self._begin(name)
        assert isinstance(family, HistogramMetricFamily)
        family.add_metric(labels, buckets, total)

    def all(self) -> list[Metric]:
        """In the order of the table."""
        return [self._found[row.name] for row in MESH if row.name in self._found]

    def _begin(self, name: str) -> _Family:
        row = _ROWS[name]
        found = self._found[name] = _KINDS[row.kind](row.full, row.help, labels=row.labels)
        return found
