"""docs/metrics.md, the dashboard and the rules name what the API tells, and nothing else (SPEC A4, H7; issue 7)."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import yaml

from gpu_mesh.api.metrics.table import TABLE
from gpu_mesh.domain import fleet
from gpu_mesh.domain.alert_rules import RULES
from gpu_mesh.settings import Settings

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "gpu-mesh.json"
RULES_FILE = ROOT / "deploy" / "prometheus" / "rules" / "gpu-mesh.yml"
TESTS_FILE = ROOT / "deploy" / "prometheus" / "tests" / "gpu-mesh.yml"
ROW = re.compile(r"^\| `(gpumesh_\w+)` \| (\w+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
#: What a name's end says of its unit.
UNITS = {"s": "_seconds", "bytes": "_bytes", "0-1": "_ratio", "°C": "_celsius", "W": "_watts"}
#: Rules of Prometheus alone.
OUTSIDE = {"target", "away", "beat", "checks", "control", "ticks", "notices"}
#: Rules of the mesh about what it did, not about how it is.
TOLD_ONLY = {"flapping", "recovery"}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES_FILE.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def test_the_table_of_the_documentation_is_the_code():
    told = ROW.findall((ROOT / "docs" / "metrics.md").read_text(encoding="utf-8"))
    shown = [
        (row.full, row.kind, " ".join(f"`{label}`" for label in row.labels) or "–", row.unit or "–", row.help)
        for row in TABLE
    ]
    assert told == shown


def test_names_say_kind_and_unit():
    for row in TABLE:
        assert (row.kind == "counter") == row.name.endswith("_total"), row.name
        plain = row.name.removesuffix("_total")
        for unit, end in UNITS.items():
            assert (row.unit == unit) == plain.endswith(end), row.name
    assert len({row.name for row in TABLE}) == len(TABLE)


def test_no_label_is_without_bounds():
    """No task, no user's words: each label is explained in the documentation."""
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    bounds = text.partition("## What the labels hold")[2].partition("## What to know")[0]
    free = {"kind", "gpu_type", "role", "version", "of", "endpoint", "method", "status"}
    for label in {label for row in TABLE for label in row.labels} - free:
        assert re.search(rf"^\|[^|]*`{label}`", bounds, re.MULTILINE), label


def test_what_the_dashboard_and_the_rules_ask_for_is_there():
    kinds = {row.full: row.kind for row in TABLE}
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    asked = [target["expr"] for panel in panels() for target in panel["targets"]] + [rule["expr"] for rule in rules()]
    for expr in asked:
        for name in re.findall(r"gpumesh[\w:]+", expr):
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            is_histogram = base != name and kinds.get(base) == "histogram"
            assert name in recorded or is_histogram or kinds.get(name) in ("gauge", "counter"), (name, expr)


def test_labels_that_are_asked_for_are_there():
    labels = {row.full: {*row.labels, "instance", "job", "le"} for row in TABLE}
    for expr in (target["expr"] for panel in panels() for target in panel["targets"]):
        for name, filters in re.findall(r"(gpumesh_\w+?)(?:_bucket)?\{([^}]*)\}", expr):
            named = re.findall(r"(\w+)\s*=", filters)
            assert set(named) <= labels[name], expr


def test_the_dashboard_is_what_its_script_writes():
    made = runpy.run_path(str(ROOT / "deploy" / "grafana" / "make_dashboard.py"))
    assert made["text"]() == DASHBOARD.read_text(encoding="utf-8"), "python deploy/grafana/make_dashboard.py"


def test_the_dashboard_fits_any_grafana():
    """A fixed uid, the data source and nodes and queues to choose, panels beside each other."""
    board = json.loads(DASHBOARD.read_text())
    assert board["uid"] == "gpu-mesh"
    assert {"datasource", "node", "queue"} <= {one["name"] for one in board["templating"]["list"]}
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${datasource}"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_every_rule_of_the_mesh_has_one_in_prometheus():
    """H7, and what else is told of: by the mesh's own names, each with a place in the runbook."""
    alerts = [rule for rule in rules() if "alert" in rule]
    assert {one["labels"]["rule"] for one in alerts} == (RULES.keys() - TOLD_ONLY) | OUTSIDE
    headings = set(re.findall(r"^### (\w+)$", (ROOT / "docs" / "alerts.md").read_text(), re.MULTILINE))
    for one in alerts:
        name = one["labels"]["rule"]
        assert one["annotations"]["runbook"] == f"docs/alerts.md#{name}"
        assert name in headings
        assert {"summary", "description"} <= one["annotations"].keys()
        if name in RULES:
            assert one["labels"]["severity"].upper() in RULES[name].levels


def test_thresholds_are_the_defaults_of_the_settings():
    own, by_name = Settings(_env_file=None), {rule.get("alert") or rule["record"]: rule["expr"] for rule in rules()}
    minutes = f"{fleet.FAILURES_S / 60:g}m"
    assert f"> {own.alert_failures:g} " in by_name["GpuMeshTaskFailures"]
    assert by_name["GpuMeshTaskFailures"].endswith(f">= {fleet.LEAST_TASKS}")
    assert f"[{minutes}]" in by_name["gpumesh:failed:ratio10m"]
    assert f"[{minutes}]" in by_name["gpumesh:ended:increase10m"]
    assert f'{{queue!="ai-batch"}} > {own.alert_backlog} ' in by_name["GpuMeshBacklog"]
    assert by_name["GpuMeshBacklog"].endswith(f'{{queue="ai-batch"}} > {own.alert_batch_backlog}')
    assert by_name["GpuMeshGpuMemory"].endswith(f"> {own.alert_gpu_memory:g}")
    assert f"> {fleet.REDIS_FULL:g} " in by_name["GpuMeshRedisAlmostFull"]
    assert by_name["GpuMeshRedisFull"].endswith(f"> {fleet.REDIS_CRITICAL:g}")
    assert by_name["GpuMeshNoHealthCheck"].endswith(f"> {4 * own.health_every_s:g}")
    assert f"[{fleet.FRESH_S / 3600:g}h]" in by_name["GpuMeshDeadLetters"]


def test_every_rule_is_seen_to_fire_and_not_to():
    """By deploy/prometheus/tests, which test_promtool runs."""
    fires: dict[str, set[bool]] = {}
    for test in yaml.safe_load(TESTS_FILE.read_text())["tests"]:
        for one in test["alert_rule_test"]:
            fires.setdefault(one["alertname"], set()).add(bool(one["exp_alerts"]))
    assert fires == {rule["alert"]: {True, False} for rule in rules() if "alert" in rule}
