"""docs/failures.md names tests that exist (DESIGN §9: each row is a test)."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: A row: what happens, what follows, the tests that show it.
ROW = re.compile(r"^\| (?!event \|)(?P<event>[^|]+) \| [^|]+ \| (?P<tests>[^|]+) \|$", re.MULTILINE)
TEST = re.compile(r"`(?P<file>tests/[\w/]+\.py)::(?P<name>\w+)`")


def test_every_row_names_tests_that_exist():
    rows = list(ROW.finditer((ROOT / "docs" / "failures.md").read_text()))
    assert len(rows) > 20
    for row in rows:
        named = list(TEST.finditer(row["tests"]))
        assert named, row["event"]
        assert TEST.sub("", row["tests"]).strip() == "", row["event"]
        for test in named:
            assert test["name"] in _tests_in(ROOT / test["file"]), test[0]


def _tests_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
