"""How commands print for people."""

from __future__ import annotations

import pytest
from rich.console import Console

from gpu_mesh.cli import output
from gpu_mesh.cli.root import root
from gpu_mesh.errors import InvalidTask


def test_an_id_is_never_cut(capsys: pytest.CaptureFixture[str]):
    """Also in a terminal too narrow for the rest: it is what the next command is given."""
    narrow = Console(width=80, highlight=False)
    long = "8c5bd2a9-5ef1-4b5b-9d27-0d60ee5b7ac1"
    why = "needs 48 GB; gpu0@office offers 23 GB (24 GB less 1 GB margin)"

    output.table(
        "", ("id", "task", "queue", "why"), [(long, "llm_inference", "ai-realtime", why)], empty="", console=narrow
    )

    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"{long} ") for line in lines)
    assert all(len(line) <= 80 for line in lines)
    assert f"{long}: {why}" in " ".join(line.strip() for line in lines)


@pytest.mark.parametrize("command", [["wait"], ["cancel"], ["tasks", "show"], ["dead", "show"], ["dead", "drop"]])
@pytest.mark.parametrize("task_id", ["", "  "])
def test_no_id_is_refused_by_name(command: list[str], task_id: str):
    """A shell's variable that is not set: before Redis is asked, and without a traceback."""
    with pytest.raises(InvalidTask, match=r"task_id='.*gpu-mesh submit"):
        root.main([*command, task_id], standalone_mode=False)
