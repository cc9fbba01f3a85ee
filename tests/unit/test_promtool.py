"""What Prometheus's own tool says of rules and their tests, configuration and the dashboard's queries (SPEC H7, A4)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def promtool(*args: str | Path) -> str:
    """What it says; fails where it finds anything."""
    ran = subprocess.run(["promtool", *args], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_the_rules_do_what_their_tests_say():
    files = sorted((PROMETHEUS / "tests").glob("*.yml"))
    assert files
    promtool("test", "rules", *files)


def test_configuration_and_rules_are_valid():
    said = promtool("check", "config", PROMETHEUS / "prometheus.yml")
    assert re.search(r"SUCCESS: \d\d rules found", said), said


def test_tokens_are_a_line_away(tmp_path):
    """The commented lines, uncommented, are valid where they are."""
    text = (PROMETHEUS / "prometheus.yml").read_text()
    text, count = re.subn(r"^    # ((  )?(authorization:|credentials_file:.*))$", r"    \1", text, flags=re.MULTILINE)
    assert count == 2
    (tmp_path / "prometheus.yml").write_text(text)
    (tmp_path / "gpu-mesh-token").write_text("token")
    shutil.copytree(PROMETHEUS / "rules", tmp_path / "rules")
    assert yaml.safe_load(text)["scrape_configs"][0]["authorization"]["credentials_file"] == "gpu-mesh-token"
    promtool("check", "config", tmp_path / "prometheus.yml")


def test_every_panel_asks_in_promql(tmp_path):
    panels = json.loads((DEPLOY / "grafana" / "dashboards" / "gpu-mesh.json").read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    assert len(asked) > 40
    plain = [re.sub(r"\$\w+", "x", expr.replace("$__rate_interval", "1m")) for expr in asked]
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(plain)]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", tmp_path / "panels.yml")
