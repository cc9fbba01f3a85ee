"""Writes dashboards/gpu-mesh.json: python deploy/grafana/make_dashboard.py

The panels are data here, so that they look alike and the file that Grafana reads can be compared with them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PLACE = Path(__file__).parent / "dashboards" / "gpu-mesh.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
#: Grid units: the dashboard is 24 wide.
WIDTH, HEIGHT, STAT_HEIGHT = 24, 8, 4

#: Filters: `i` the API that is asked, `q` with the queues chosen, `n` with the nodes.
FILTERS = {
    "<i>": 'instance=~"$instance"',
    "<q>": 'instance=~"$instance", queue=~"$queue"',
    "<n>": 'instance=~"$instance", node=~"$node"',
}
FAILED, ENDED = 'outcome=~"failure|dead"', 'outcome=~"success|failure|dead"'
RATE = "[$__rate_interval]"

GREEN, AMBER, RED = "green", "orange", "red"
#: Colour from a value on: warns from the first, is red from the second.
Steps = tuple[tuple[str, float | None], ...]


def warns(amber: float, red: float) -> Steps:
    """Green, then amber, then red."""
    return (GREEN, None), (AMBER, amber), (RED, red)


BAD_AT_1: Steps = ((GREEN, None), (RED, 1))
GOOD_AT_1: Steps = ((RED, None), (GREEN, 1))
PLAIN: Steps = ((GREEN, None),)
YES_NO = [{"type": "value", "options": {"0": {"text": "no"}, "1": {"text": "yes"}}}]
STATES = "max by (%s, state) (%s{<n>} == 1)"


def stat(title: str, expr: str, *, unit: str = "none", steps: Steps = PLAIN, yes_no: bool = False) -> dict[str, Any]:
    """One figure."""
    panel = _panel("stat", title, [(expr, "")], unit, steps, 3, STAT_HEIGHT)
    panel["options"] = {"colorMode": "background", "graphMode": "area", "reduceOptions": {"calcs": ["lastNotNull"]}}
    if yes_no:
        panel["fieldConfig"]["defaults"]["mappings"] = YES_NO
        panel["options"]["graphMode"] = "none"
    return panel


def lines(
    title: str,
    *queries: tuple[str, str],
    unit: str = "none",
    steps: Steps = PLAIN,
    width: int = 8,
    stack: bool = False,
    top: float | None = None,
) -> dict[str, Any]:
    """Lines over time; each query with its legend."""
    panel = _panel("timeseries", title, queries, unit, steps, width, HEIGHT)
    custom: dict[str, Any] = {"fillOpacity": 20 if stack else 5, "showPoints": "never"}
    if stack:
        custom["stacking"] = {"mode": "normal"}
    if len(steps) > 1:
        custom["thresholdsStyle"] = {"mode": "line"}
    panel["fieldConfig"]["defaults"] |= {"custom": custom, "min": 0} | ({} if top is None else {"max": top})
    panel["options"] = {"legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]}}
    return panel


def timeline(title: str, expr: str, legend: str, *, width: int = 12) -> dict[str, Any]:
    """A band for each series, coloured by its value."""
    panel = _panel("state-timeline", title, [(expr, legend)], "none", BAD_AT_1, width, HEIGHT)
    panel["options"] = {"showValue": "never", "legend": {"showLegend": False}}
    return panel


def _panel(kind: str, title: str, queries: Any, unit: str, steps: Steps, width: int, height: int) -> dict[str, Any]:
    targets = []
    for letter, (expr, legend) in zip("ABCDEF", queries, strict=False):
        for short, filters in FILTERS.items():
            expr = expr.replace(short, filters)
        targets.append({"refId": letter, "datasource": SOURCE, "expr": expr, "legendFormat": legend or "__auto"})
    return {
        "type": kind,
        "title": title,
        "datasource": SOURCE,
        "targets": targets,
        "gridPos": {"w": width, "h": height},
        "fieldConfig": {
            "defaults": {
                "unit": unit,
                "thresholds": {
                    "mode": "absolute",
                    "steps": [{"color": color, "value": value} for color, value in steps],
                },
            },
            "overrides": [],
        },
    }


def quantiles(metric: str) -> list[tuple[str, str]]:
    """Median and 95th percentile by queue."""
    inner = f"sum by (queue, le) (rate({metric}_bucket{{<q>}}{RATE}))"
    return [(f"histogram_quantile({q}, {inner})", f"{{{{queue}}}} p{round(100 * q)}") for q in (0.5, 0.95)]


ROWS: dict[str, list[dict[str, Any]]] = {
    "Fleet": [
        stat("Redis answers", "gpumesh_up{<i>}", steps=GOOD_AT_1, yes_no=True),
        stat("Nodes online", "sum(gpumesh_node_online{<n>})", steps=((RED, None), (GREEN, 1))),
        stat("Devices busy", "avg(gpumesh_device_busy{<n>})", unit="percentunit"),
        stat("Waiting", "sum(gpumesh_queue_waiting{<q>})", steps=warns(100, 1000)),
        stat("Running", "sum(gpumesh_queue_running{<q>})"),
        stat("Realtime is taken", "gpumesh_realtime_available{<i>}", steps=GOOD_AT_1, yes_no=True),
        stat("Peak hours", "gpumesh_window_peak{<i>}", yes_no=True),
        stat("Alerts", "sum(gpumesh_alerts{<i>})", steps=BAD_AT_1),
        lines(
            "Runs that ended, a minute",
            (f"60 * sum by (outcome) (rate(gpumesh_runs_total{{<q>}}{RATE}))", "{{outcome}}"),
            stack=True,
        ),
        lines(
            "Share of tasks that failed",
            (
                f"sum by (queue) (rate(gpumesh_runs_total{{<q>, {FAILED}}}{RATE})) "
                f"/ (sum by (queue) (rate(gpumesh_runs_total{{<q>, {ENDED}}}{RATE})) > 0)",
                "{{queue}}",
            ),
            unit="percentunit",
            steps=warns(0.02, 0.05),
        ),
        lines("Alerts that stand", ("sum by (level) (gpumesh_alerts{<i>})", "{{level}}"), stack=True),
    ],
    "Queues": [
        lines("Waiting", ("gpumesh_queue_waiting{<q>}", "{{queue}}"), stack=True, steps=warns(100, 1000)),
        lines("The oldest has waited", ("gpumesh_queue_oldest_seconds{<q>}", "{{queue}}"), unit="s"),
        lines("Running", ("gpumesh_queue_running{<q>}", "{{queue}}"), stack=True),
        lines("Wait until a run begins", *quantiles("gpumesh_task_wait_seconds"), unit="s", width=12),
        lines("Run time", *quantiles("gpumesh_task_run_seconds"), unit="s", width=12),
        timeline(
            "Closed, and why", "sum by (queue, reason) (gpumesh_queue_gates{<q>}) > bool 0", "{{queue}}: {{reason}}"
        ),
        lines(
            "Preemptions, and closings, an hour",
            (f"3600 * sum by (queue) (rate(gpumesh_preemptions_total{{<q>}}{RATE}))", "{{queue}} preempted"),
            (f"3600 * sum by (reason) (rate(gpumesh_queue_closings_total{{<q>}}{RATE}))", "closed: {{reason}}"),
            width=12,
        ),
        lines(
            "Dead letters, delayed",
            ("gpumesh_dead_letters{<i>}", "dead letters"),
            ("gpumesh_tasks_delayed{<i>}", "delayed"),
        ),
        lines(
            "Failovers, a minute",
            (f"60 * sum by (outcome) (rate(gpumesh_claims_reaped_total{{<i>}}{RATE}))", "claims {{outcome}}"),
            (f"60 * rate(gpumesh_leases_ended_total{{<i>}}{RATE})", "leases ended"),
        ),
        lines(
            "Claims refused, a second",
            (f"sum by (reason) (rate(gpumesh_claims_refused_total{{<i>}}{RATE}))", "{{reason}}"),
        ),
    ],
    "Devices": [
        timeline("State", STATES % ("node, device", "gpumesh_device_state"), "{{device}}@{{node}} {{state}}"),
        timeline("Busy", "gpumesh_device_busy{<n>}", "{{device}}@{{node}}"),
        lines(
            "Memory in use",
            ("gpumesh_device_memory_used_bytes{<n>} / (gpumesh_device_memory_total_bytes > 0)", "{{device}}@{{node}}"),
            unit="percentunit",
            steps=warns(0.8, 0.9),
            top=1,
        ),
        lines(
            "Memory held by strangers", ("gpumesh_device_memory_held_bytes{<n>}", "{{device}}@{{node}}"), unit="bytes"
        ),
        lines(
            "Temperature",
            ("gpumesh_device_temperature_celsius{<n>}", "{{device}}@{{node}}"),
            unit="celsius",
            steps=warns(80, 90),
        ),
        lines(
            "Utilisation", ("gpumesh_device_utilisation_ratio{<n>}", "{{device}}@{{node}}"), unit="percentunit", top=1
        ),
        lines("Power", ("gpumesh_device_power_watts{<n>}", "{{device}}@{{node}}"), unit="watt"),
        lines("Answers in", ("gpumesh_device_response_seconds{<n>}", "{{device}}@{{node}}"), unit="s"),
        lines(
            "Runs that ended, a minute",
            (f"60 * sum by (node, device) (rate(gpumesh_device_runs_total{{<n>}}{RATE}))", "{{device}}@{{node}}"),
        ),
        lines(
            "Model swaps, a minute",
            (f"60 * rate(gpumesh_device_model_swaps_total{{<n>}}{RATE})", "{{device}}@{{node}}"),
            (f"60 * rate(gpumesh_model_swaps_saved_total{{<i>}}{RATE})", "saved"),
        ),
        lines(
            "Runs by model, a minute",
            (f"60 * sum by (model) (rate(gpumesh_model_runs_total{{<i>}}{RATE}))", "{{model}}"),
        ),
    ],
    "Health and control plane": [
        timeline("Nodes", STATES % ("node", "gpumesh_node_state"), "{{node}} {{state}}"),
        lines(
            "Uptime score",
            ("gpumesh_node_score_ratio{<n>}", "{{node}}"),
            ("gpumesh_device_score_ratio{<n>}", "{{device}}@{{node}}"),
            unit="percentunit",
            width=12,
            top=1,
        ),
        lines(
            "Machines",
            ("gpumesh_node_load_ratio{<n>}", "{{node}} load"),
            ("gpumesh_node_memory_used_ratio{<n>}", "{{node}} memory"),
            ("gpumesh_node_disk_used_ratio{<n>}", "{{node}} disk"),
            unit="percentunit",
        ),
        lines(
            "Clock skew, and silence",
            ("abs(gpumesh_node_clock_skew_seconds{<n>})", "{{node}} skew"),
            ("gpumesh_node_silent_seconds{<n>}", "{{node}} silent"),
            unit="s",
        ),
        lines(
            "Workers that live",
            ("gpumesh_workers{<i>}", "{{kind}}"),
            ("gpumesh_beat_leading{<i>}", "beat"),
        ),
        lines(
            "Checks: age, and how late",
            ("gpumesh_health_check_age_seconds{<i>}", "last check"),
            ("gpumesh_tick_late_seconds{<i>}", "{{tick}} late"),
            unit="s",
            steps=warns(60, 120),
        ),
        lines("Periodic work takes", ("gpumesh_tick_last_seconds{<i>}", "{{tick}}"), unit="s"),
        lines("Redis: memory", ("gpumesh_redis_memory_used_bytes{<i>}", "used"), unit="bytes"),
        lines(
            "API: requests a second",
            (f"sum by (route, status) (rate(gpumesh_http_requests_total{{<i>}}{RATE}))", "{{route}} {{status}}"),
        ),
        lines(
            "API: answers in, p95",
            (
                "histogram_quantile(0.95, "
                f"sum by (route, le) (rate(gpumesh_http_request_seconds_bucket{{<i>}}{RATE})))",
                "{{route}}",
            ),
            ("gpumesh_read_seconds{<i>}", "reading the mesh"),
            unit="s",
        ),
        lines("API: memory", ('process_resident_memory_bytes{job="gpu-mesh", <i>}', "resident"), unit="bytes"),
    ],
}


def variable(name: str, label: str, metric: str, *, many: bool = True) -> dict[str, Any]:
    """A choice among a label's values."""
    return {
        "type": "query",
        "name": name,
        "label": label.capitalize(),
        "datasource": SOURCE,
        "query": {"query": f"label_values({metric}, {label})", "refId": name},
        "definition": f"label_values({metric}, {label})",
        "refresh": 2,
        "sort": 1,
        "multi": many,
        "includeAll": many,
        "current": {"text": "All", "value": "$__all"} if many else {},
    }


def dashboard() -> dict[str, Any]:
    """As Grafana imports it."""
    return {
        "uid": "gpu-mesh",
        "title": "GPU Mesh",
        "tags": ["gpu-mesh"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus"},
                variable("instance", "instance", "gpumesh_up", many=False),
                variable("node", "node", "gpumesh_node_info"),
                variable("queue", "queue", "gpumesh_queue_waiting"),
            ]
        },
        "panels": list(placed()),
    }


def placed() -> list[dict[str, Any]]:
    """All panels, row by row, from left to right."""
    found: list[dict[str, Any]] = []
    x, y = 0, 0
    for title, panels in ROWS.items():
        y += HEIGHT if x else 0
        found.append({"type": "row", "title": title, "collapsed": False, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
        x, y, height = 0, y + 1, 0
        for panel in panels:
            size = panel["gridPos"]
            if x + size["w"] > WIDTH or size["h"] != height != 0:
                x, y = 0, y + height
            height = size["h"]
            found.append({**panel, "gridPos": {"x": x, "y": y, **size}})
            x += size["w"]
    return [{"id": number, **panel} for number, panel in enumerate(found, 1)]


def text() -> str:
    """What the file holds."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    PLACE.write_text(text(), encoding="utf-8")
