"""The dashboard over a real mesh and a real Prometheus: every panel shows something (SPEC A4)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "grafana" / "check_panels.py"
#: What pretended GPUs do not read.
CANNOT = {"Power"}


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_every_panel_returns_data(tmp_path):
    """Also: Prometheus takes every rule as it is, and what is recorded is of the mesh's own figures."""
    out = tmp_path / "panels.json"
    env = {name: value for name, value in os.environ.items() if not name.startswith("GPU_MESH_")}
    argv = [sys.executable, str(SCRIPT), "--json", str(out)]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=110, env=env, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    told = json.loads(out.read_text())
    assert {panel["title"] for panel in told["panels"] if not panel["filled"]} == CANNOT
    assert len(told["panels"]) > 40
    rules = [rule for group in told["rules"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    assert sum(rule["health"] == "ok" for rule in rules) > 20
