"""docs/alerts.md has every rule, with its levels and who posts it (issue 6 §4)."""

from __future__ import annotations

import re
from pathlib import Path

from gpu_mesh.domain import fleet as domain
from gpu_mesh.domain.alert_rules import RULES
from gpu_mesh.services import fleet
from gpu_mesh.settings import Settings, env_name

DOCS = Path(__file__).parents[2] / "docs" / "alerts.md"
ROW = re.compile(r"^\| `(\w+)` \| ([A-Z, ]+) \| (\w+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def test_the_table_is_the_code():
    rows = ROW.findall(DOCS.read_text(encoding="utf-8"))
    told = {name: (by, tuple(levels.split(", "))) for name, levels, by, *_ in rows}
    assert told == {name: (rule.by, rule.levels) for name, rule in RULES.items()}
    assert list(told) == list(RULES)


def test_its_figures_are_the_code():
    """Defaults of the settings, and the constants."""
    text = DOCS.read_text(encoding="utf-8")
    defaults = Settings(_env_file=None)
    for field, shown in (
        ("alert_failures", f"{defaults.alert_failures * 100:g} %"),
        ("alert_backlog", f"{defaults.alert_backlog}"),
        ("alert_batch_backlog", f"{defaults.alert_batch_backlog}"),
        ("alert_gpu_memory", f"{defaults.alert_gpu_memory * 100:g} %"),
    ):
        assert f"`{env_name(field)}` ({shown})" in text
    for shown in (domain.REDIS_FULL, domain.REDIS_CRITICAL, domain.REDIS_FULL * domain.MEMORY_BACK):
        assert f"{shown * 100:.4g} %" in text
    assert f"every `{env_name('health_every_s')}`" in text


def test_every_rule_of_the_fleet_is_judged_and_has_words_for_its_end():
    own = {name for name, rule in RULES.items() if rule.by == "fleet"}
    assert own == set(fleet.OVER) == set(fleet.JUDGES)
