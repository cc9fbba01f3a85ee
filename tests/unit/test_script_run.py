"""A script behind its guard: what it is given, what is read of it, and that nothing of it stays (SPEC T, P7)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from mesh_scripts import alive, pids_in, write_scripts
from waiting import wait_for

from gpu_mesh.errors import ScriptFailed
from gpu_mesh.services.scripts import guard as guard_module
from gpu_mesh.services.scripts.output import Line
from gpu_mesh.services.scripts.process import Run, RunSpec, argv_of

ENV = {"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    return write_scripts(tmp_path)


def spec(scripts: Path, name: str, arguments: object = None, **given) -> RunSpec:
    runs = scripts.parent / "runs"
    runs.mkdir(exist_ok=True)
    defaults = {"limit_s": None, "grace_s": 5.0, "line_bytes": 100_000, "parent": runs}
    argv = argv_of(scripts / name)
    return RunSpec(argv=argv, env=ENV, arguments=json.dumps(arguments or {}), **{**defaults, **given})


def runs_left(scripts: Path) -> list[Path]:
    return list((scripts.parent / "runs").iterdir())


def read(run: Run) -> list[Line]:
    return [line for line in run.lines() if line is not None]


def begin(run: Run, pids: Path) -> list[int]:
    """Read on until the script's processes are all there."""
    for _ in run.lines():
        if found := pids_in(pids):
            assert len(alive(found)) == 4
            return found
    raise AssertionError("it ended")


def test_output_and_exit_code(scripts: Path):
    """T: every line, also of a script that ends at once; its working folder is gone afterwards."""
    with Run(spec(scripts, "say.py", {"lines": ["one", "", "two"]})) as run:
        assert len(runs_left(scripts)) == 1
        assert read(run) == [Line(b"one"), Line(b"two")]
    assert run.ended is not None
    assert (run.ended.code, run.ended.timed_out, run.ended.error, run.ended.left) == (0, False, None, ())
    assert runs_left(scripts) == []


def test_what_it_is_given(scripts: Path):
    """T: arguments of any size as JSON on standard input, and as a file; no other file of the worker's is open."""
    arguments = {"text": "é" * 3_000_000, "n": 3}
    with Run(spec(scripts, "echo.py", arguments, line_bytes=20_000_000)) as run:
        lines = read(run)
    found = json.loads(lines[-1].data)["result"]
    assert found["args"] == arguments
    assert found["same"]
    assert found["argv"] == []
    assert found["env"].keys() - {"LC_CTYPE"} == {*ENV, "MESH_ARGS_FILE"}
    assert found["path"] != str(scripts)
    # Itself, and the folder it lists.
    assert len(found["open"]) == 4


def test_a_failure(scripts: Path):
    """T: the exit code, and the end of standard error, bounded."""
    with Run(spec(scripts, "fail.py", {"code": 7})) as run:
        lines = read(run)
    assert run.ended is not None
    assert run.ended.code == 7
    assert str(run.stderr).endswith("cannot open the data\N{REPLACEMENT CHARACTER}[2J")
    assert len(str(run.stderr)) <= 4096
    assert [(len(line.data), line.cut, line.is_error) for line in lines] == [(100_000, True, True), (24, False, True)]


def test_ended_by_a_signal(scripts: Path):
    """T: told as its negative number."""
    with Run(spec(scripts, "fail.py", {"signal": signal.SIGSEGV})) as run:
        read(run)
    assert run.ended is not None
    assert run.ended.code == -signal.SIGSEGV


def test_what_cannot_start(scripts: Path):
    """STYLE 18: says why; nothing stays."""
    with Run(spec(scripts, "broken")) as run:
        assert read(run) == []
    assert run.ended is not None
    assert "Exec format error" in str(run.ended.error)
    assert runs_left(scripts) == []
    with pytest.raises(ScriptFailed, match="cannot be started"), Run(spec(scripts, "say.py", parent=scripts / "none")):
        raise AssertionError
    assert runs_left(scripts) == []


def test_what_it_leaves_behind_ends_with_it(scripts: Path, tmp_path: Path):
    """P7: also what has a session of its own, and what lost its parent."""
    pids = tmp_path / "pids"
    with Run(spec(scripts, "tree.py", {"pids": str(pids), "ends": True})) as run:
        assert read(run) == [Line(b'{"result": "left"}')]
    assert len(pids_in(pids)) == 4
    assert alive(pids_in(pids)) == []


def test_leaving_ends_all(scripts: Path, tmp_path: Path):
    """T: whatever raises: SIGTERM first, so that it can save, then all of it is gone."""
    pids, note = tmp_path / "pids", tmp_path / "note"
    with Run(spec(scripts, "tree.py", {"pids": str(pids), "note": str(note)})) as run:
        begin(run, pids)
    assert note.read_text() == "saved"
    assert alive(pids_in(pids)) == []
    assert runs_left(scripts) == []


@pytest.mark.parametrize("how", ["limit", "stop", "kill"])
def test_deaf_to_sigterm(scripts: Path, tmp_path: Path, how: str):
    """T: killed after the grace, and at once where that is asked for."""
    pids = tmp_path / "pids"
    arguments = {"pids": str(pids), "deaf": True}
    limit_s, grace_s = (2.0 if how == "limit" else None), (60.0 if how == "kill" else 0.2)
    with Run(spec(scripts, "tree.py", arguments, limit_s=limit_s, grace_s=grace_s)) as run:
        begin(run, pids)
        if how != "limit":
            getattr(run, how)()
        read(run)
    assert run.ended is not None
    assert run.ended.timed_out == (how == "limit")
    assert alive(pids_in(pids)) == []


def test_the_limit_holds_without_a_reader(scripts: Path, tmp_path: Path):
    """T: a worker that waits for Redis reads nothing meanwhile."""
    pids = tmp_path / "pids"
    with Run(spec(scripts, "tree.py", {"pids": str(pids), "deaf": True}, limit_s=2.0, grace_s=0.1)) as run:
        found = wait_for(lambda: pids_in(pids), "the script's processes")
        wait_for(lambda: not alive(found), "their end")
        read(run)
    assert run.ended is not None
    assert run.ended.timed_out


_HOLDER = """
import json, sys
from pathlib import Path
from gpu_mesh.services.scripts.process import Run, RunSpec
given = json.loads(sys.argv[1])
with Run(RunSpec(**{**given, "parent": Path(given["parent"])})) as run:
    list(run.lines())
"""


@pytest.mark.parametrize("whom", ["holder", "guard"])
def test_killed_from_without(scripts: Path, tmp_path: Path, whom: str):
    """T: SIGKILL of the process that holds it, or of its guard, leaves no script."""
    pids = tmp_path / "pids"
    wanted = spec(scripts, "tree.py", {"pids": str(pids), "deaf": True}, grace_s=60.0)
    given = {name: getattr(wanted, name) for name in RunSpec.__slots__}
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, json.dumps({**given, "parent": str(wanted.parent)})])
    try:
        found = wait_for(lambda: pids_in(pids), "the script's processes")
        if whom == "holder":
            holder.kill()
            wait_for(lambda: not alive(found), "the end of all of it")
            wait_for(lambda: not runs_left(scripts), "the end of its working folder")
        else:
            [guard] = psutil.Process(holder.pid).children()
            guard.kill()
            wait_for(lambda: not alive(found[:1]), "the end of the script")
            assert holder.wait(10) == 0
    finally:
        holder.kill()
        holder.wait()
        for pid in alive(pids_in(pids)):
            os.kill(pid, signal.SIGKILL)


def test_the_guard_needs_nothing_installed():
    """STYLE: it starts fast, and runs where a package is broken."""
    code = f"import runpy, sys; runpy.run_path({guard_module.__file__!r}); print(len(sys.modules))"
    ran = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
