"""docs/api.md shows what the API answers, and names the problems that there are (SPEC A1, A2)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gpu_mesh.api.models.lists import TaskList
from gpu_mesh.api.models.submitting import SubmissionAndWait, Submitted
from gpu_mesh.api.models.tasks import Task
from gpu_mesh.api.problems import Problem
from gpu_mesh.api.routes.mesh import Status

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
SHOWN = [Submitted, Task, TaskList, Status, Problem]
BLOCKS = re.findall(r"^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def _section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_every_answer_shown_is_looked_at():
    assert len(BLOCKS) == len(SHOWN)


@pytest.mark.parametrize(("model", "block"), list(zip(SHOWN, BLOCKS, strict=False)))
def test_an_answer_has_every_field(model, block):
    """Those of its parts too; in the order in which they come."""
    told = json.loads(block)
    assert json.dumps(model.model_validate(told).model_dump(mode="json")) == json.dumps(told)


def test_every_field_of_a_submit_is_named():
    rows = re.findall(r"^\| (`.+?) \|", _section("Sending a task"), re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(SubmissionAndWait.model_fields)


def test_every_kind_of_problem_is_named():
    """What the API refuses by itself is told by `kind`, in its sources."""
    sources = "".join(path.read_text() for path in (ROOT / "gpu_mesh" / "api").rglob("*.py"))
    kinds = set(re.findall(r"Refused\(\s*\d{3},\s*\"([a-z-]+)\"", sources))
    assert len(kinds) >= 10
    assert kinds - set(re.findall(r"`([a-z0-9-]+)`", _section("Errors"))) == set()
