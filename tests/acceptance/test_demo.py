"""`gpu-mesh demo`: the newcomer's first command."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import psutil
from processes import run


def test_the_demo_does_real_work_and_leaves_nothing() -> None:
    """Exit code 0 only if all came back; every queue, device and search is in the report; no process or folder left."""
    ours = psutil.Process().children
    before = {child.pid for child in ours(recursive=True)}
    ran = run("demo", env={"COLUMNS": "160"}, timeout_s=110)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    counts = {line.split()[0]: int(line.split()[1]) for line in ran.stdout.splitlines() if re.match(r"\S+ +\d+ ", line)}
    assert counts["revenue"] == 1
    assert counts["ai-realtime"] == 5
    assert counts["ai-batch"] > 20
    assert counts["cpu0@demo"] + counts["cpu1@demo"] == counts["revenue"] + counts["ai-realtime"] + counts["ai-batch"]
    assert len(re.findall(r"\? +0\.\d\d ", ran.stdout)) == 5
    assert {child.pid for child in ours(recursive=True)} <= before
    assert not list(Path(tempfile.gettempdir()).glob("gpu-mesh-demo-*"))
