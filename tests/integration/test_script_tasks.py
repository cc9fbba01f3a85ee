"""`custom` and `training` through real workers: results, progress, refusals, limits, cancels (SPEC T, P7, R1)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bare_workers import Mesh, mesh
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded
from celery.result import AsyncResult
from mesh_scripts import SECRETS, alive, pids_in, write_scripts
from waiting import wait_for

from gpu_mesh.errors import InvalidSetting, ScriptFailed, ScriptRefused, ScriptResultTooLarge, ScriptTimedOut
from gpu_mesh.services.scripts.environment import HINTS
from gpu_mesh.tasks.scripts import custom

LIMIT_S = 20
#: Of the node `short`.
SHORT_S = 2.0


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A node `n1`, and one on which scripts have little time."""
    folder = tmp_path_factory.mktemp("scripts")
    env = {"GPU_MESH_SCRIPTS_DIR": str(write_scripts(folder)), "SHOP_REGION": "north", **SECRETS}
    env |= {"GPU_MESH_SCRIPT_ENV": "SHOP_REGION", "GPU_MESH_SCRIPT_RESULT_MAX_MB": "0.1", "LC_TIME": "C"}
    short = {"GPU_MESH_CUSTOM_LIMIT_S": str(SHORT_S), "GPU_MESH_SCRIPT_GRACE_S": "0.2"}
    with mesh(folder) as found:
        workers = [found.worker("n1", **env), found.worker("short", **env, **short)]
        for worker in workers:
            worker.start(wait=False)
        for worker in workers:
            worker.await_ready()
        yield found


def send(fleet: Mesh, script: object, args: object = None, *, task: str = "custom", **options) -> AsyncResult:
    return fleet.app.send_task(task, [script, args], **{"node": "n1", **options})


def log(fleet: Mesh) -> str:
    return fleet.all_workers[0].log.read_text(errors="replace")


def runs_left(fleet: Mesh) -> list[Path]:
    return list((fleet.folder / "runs").iterdir())


def test_what_a_script_finds(served: Mesh):
    """T: its arguments; its task, devices and hints; what the operator named; no secret, nor the broker's address."""
    sent = send(served, "echo.py", {"month": 11}, requirements={"tile": 7})
    found = sent.get(LIMIT_S)
    assert found["args"] == {"month": 11, "tile": 7, "restored": None}
    env = found["env"]
    assert env["GPU_MESH_TASK_ID"] == sent.id
    assert env["CUDA_VISIBLE_DEVICES"] == ""
    assert env["SHOP_REGION"] == "north"
    assert env["LC_TIME"] == "C"
    hints = {name: value for name, value in env.items() if name.startswith("MESH_")}
    assert hints.keys() == {*HINTS} - {"MESH_CHECKPOINT_DIR"}
    assert (hints["MESH_NODE"], hints["MESH_DEVICE"], hints["MESH_GPU_TYPE"]) == ("n1", "gpu0", "A40")
    assert (hints["MESH_TIME_LIMIT_S"], hints["MESH_STOP_GRACE_S"]) == ("600", "30")
    assert [name for name in env if name.startswith("GPU_MESH_")] == ["GPU_MESH_TASK_ID"]
    assert not SECRETS.keys() & env.keys()
    told = json.dumps(env)
    assert "s3cret" not in told
    assert served.server.url not in told
    assert "echo.py: a plain line" in log(served)
    assert runs_left(served) == []


def test_a_training_is_given_more(served: Mesh):
    """P1, T: epochs and batch size, named in either way, and a folder that is gone once it succeeded."""
    sent = send(served, "echo.py", {"data": "a"}, task="training", requirements={"epochs": 3, "batch_size": 8})
    found = sent.get(LIMIT_S)
    folder = found["args"].pop("checkpoint_dir")
    assert found["args"] == {"data": "a", "epochs": 3, "batch_size": 8, "restored": None}
    assert found["env"]["MESH_CHECKPOINT_DIR"] == folder
    assert Path(folder).name == sent.id
    assert found["env"]["MESH_TIME_LIMIT_S"] == "86400"
    wait_for(lambda: not Path(folder).exists(), "the end of its folder")
    kwargs = {"script": "echo.py", "epochs": 5}
    found = served.app.send_task("training", kwargs=kwargs, node="n1", task_id="../../odd").get(LIMIT_S)
    assert found["args"]["epochs"] == 5
    assert Path(found["args"]["checkpoint_dir"]).parent == Path(folder).parent


def test_a_failed_training_keeps_its_files(served: Mesh):
    """F2: sent again under its id, it can go on."""
    sent = send(served, "fail.py", task="training")
    with pytest.raises(ScriptFailed):
        sent.get(LIMIT_S)
    assert (served.folder / "checkpoints" / sent.id).is_dir()


def test_an_executable(served: Mesh):
    """T: run by what its first line names, without arguments on its command line."""
    assert send(served, "shell").get(LIMIT_S) == "from a shell"
    assert "shell has 0 arguments" in log(served)


def test_progress(served: Mesh, tmp_path: Path):
    """T: the state while it runs."""
    gate = tmp_path / "gate"
    gate.touch()
    sent = send(served, "progress.py", {"gate": str(gate)})
    wait_for(lambda: sent.state == "PROGRESS", "the state")
    assert sent.info == {"done": 3, "total": 10}
    gate.unlink()
    assert sent.get(LIMIT_S) == "done"


def test_a_failure(served: Mesh):
    """T: exit code and the tail of standard error."""
    with pytest.raises(ScriptFailed) as caught:
        send(served, "fail.py", {"code": 9}).get(LIMIT_S)
    assert caught.value.exit_code == 9
    assert "ended with exit code 9" in str(caught.value)
    assert "cannot open the data" in caught.value.stderr
    assert len(caught.value.stderr) <= 4096
    with pytest.raises(ScriptFailed, match="ended by SIGKILL"):
        send(served, "fail.py", {"signal": 9}).get(LIMIT_S)


WRONG_NAMES = [
    *("", ".", "..", "../outside.py", "/bin/ls", "sub/deep.py", "sub\\deep.py", "echo.py\0", "echo.py\n", ".hidden.py"),
    *("-c", "leads_out.py", "circle.py", "gone.py", "folder.py", "sub", "none.py", "not_executable.sh", "écho.py"),
    *("echo.py; ls", "$(ls)", "a" * 200, None, 3, ["echo.py"], {"name": "echo.py"}),
]
PLAIN = [
    '{"progress": {"done": 1}}',
    '{"progress": {"done": -1, "total": 2}}',
    '{"progress": {"done": NaN, "total": 2}}',
    '{"progress": 3, "total": 10}',
    '{"result": 1, "other": 2}',
    '{"result": 1',
    "[" * 5000,
    '{"result": ' + "[" * 5000,
    "result",
    "{}",
]


def test_malformed_lines_are_plain_output(served: Mesh):
    """T: shown in the log, and nothing else."""
    assert send(served, "say.py", {"lines": PLAIN}).get(LIMIT_S) is None
    for line in PLAIN:
        assert f"say.py: {line[:1000]}" in log(served)
    assert send(served, "say.py", {"lines": ['{"result": 1}', '  {"result": {"a": null}}  ']}).get(LIMIT_S) == {
        "a": None
    }


@pytest.mark.parametrize("line", ['{"result": {"loss": NaN}}', '{"checkpoint": [-Infinity]}', '{"result": 1e999}'])
def test_a_number_that_json_has_not(served: Mesh, line: str):
    """T: no success without the result that the script believes it gave."""
    with pytest.raises(ScriptFailed, match="JSON has no such number"):
        send(served, "say.py", {"lines": [line]}).get(LIMIT_S)


def test_a_flood(served: Mesh):
    """T: 40 MB of lines, and one line of 40 MB: the log takes little of it, memory none."""
    before = len(log(served))
    assert send(served, "flood.py", {"lines": 10_000, "chars": 4_000}).get(LIMIT_S) == "flooded"
    assert send(served, "flood.py", {"lines": 1, "chars": 40_000_000}).get(LIMIT_S) == "flooded"
    grown = log(served)[before:]
    assert len(grown) < 2_000_000
    assert "more lines not shown" in grown


def test_a_result_too_large(served: Mesh):
    """T: an error that names the setting, also where the line itself is longer than any is kept."""
    for size in (110_000, 3_000_000):
        with pytest.raises(ScriptResultTooLarge, match="GPU_MESH_SCRIPT_RESULT_MAX_MB"):
            send(served, "flood.py", {"lines": 0, "chars": 0, "result": size}).get(LIMIT_S)
    assert send(served, "flood.py", {"lines": 0, "chars": 0, "result": 90_000}).get(LIMIT_S) == "r" * 90_000


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_names_that_are_refused(served: Mesh, name: object):
    """T: path tricks, and whatever is no script."""
    with pytest.raises(ScriptRefused) as caught:
        send(served, name).get(LIMIT_S)
    assert caught.value.field == "script"


def test_a_link_within_the_folder(served: Mesh):
    """T: is as good as a file."""
    assert send(served, "leads_in.py").get(LIMIT_S)["args"] == {"restored": None}


@pytest.mark.parametrize("args", [[], "text", 3, {"restored": 1}, {"checkpoint_dir": "/"}, {"a": float("nan")}])
def test_arguments_that_are_refused(served: Mesh, args: object):
    """T: an object, without the names that the mesh fills."""
    with pytest.raises(ScriptRefused) as caught:
        send(served, "echo.py", args).get(LIMIT_S)
    assert caught.value.field == "args"


def test_no_scripts_folder():
    """STYLE 18: unset, the error names the setting. This process has none."""
    with pytest.raises(InvalidSetting, match="GPU_MESH_SCRIPTS_DIR"):
        custom.apply(["echo.py"]).get(disable_sync_subtasks=False)
    with pytest.raises(InvalidSetting, match="GPU_MESH_SCRIPTS_DIR"):
        custom("echo.py")


def _gone(fleet: Mesh, pids: list[int]) -> None:
    wait_for(lambda: not alive(pids), "the end of its processes")
    wait_for(lambda: not runs_left(fleet), "the end of its folder")


def test_cancel(served: Mesh, tmp_path: Path):
    """T: the script may save, then all its processes are gone; the worker goes on."""
    pids, note = tmp_path / "pids", tmp_path / "note"
    sent = send(served, "tree.py", {"pids": str(pids), "note": str(note)})
    found = wait_for(lambda: pids_in(pids), "its processes")
    assert len(alive(found)) == 4
    served.app.control.revoke(sent.id, terminate=True)
    with pytest.raises(TaskRevokedError):
        sent.get(LIMIT_S)
    _gone(served, found)
    assert note.read_text() == "saved"
    assert send(served, "shell").get(LIMIT_S) == "from a shell"


def test_the_limit_of_the_type(served: Mesh, tmp_path: Path):
    """R1: without a limit of its caller's, that of the setting holds."""
    pids = tmp_path / "pids"
    sent = send(served, "tree.py", {"pids": str(pids), "deaf": True}, node="short")
    with pytest.raises(ScriptTimedOut, match="limit of 2 s") as caught:
        sent.get(LIMIT_S)
    assert caught.value.exit_code == -9
    _gone(served, pids_in(pids))
    assert pids_in(pids)


@pytest.mark.parametrize(
    ("limits", "error"),
    [({"soft_time_limit": 2}, SoftTimeLimitExceeded), ({"time_limit": 2}, TimeLimitExceeded)],
    ids=["soft", "hard"],
)
def test_the_callers_limit(served: Mesh, tmp_path: Path, limits: dict[str, float], error: type[Exception]):
    """T: Celery's own, which wins over the setting's: by the hard one the pool's child is killed, and all with it."""
    pids = tmp_path / "pids"
    sent = send(served, "tree.py", {"pids": str(pids), "deaf": True}, node="short", **limits)
    found = wait_for(lambda: pids_in(pids), "its processes")
    with pytest.raises(error):
        sent.get(LIMIT_S)
    _gone(served, found)


def test_by_the_command_line(served: Mesh):
    """A1: `gpu-mesh submit`."""
    words = ["submit", "custom", '["echo.py", {"month": 11}]', "--node", "n1", "--wait"]
    env = {**os.environ, **served.env()}
    ran = subprocess.run(
        [sys.executable, "-m", "gpu_mesh", *words], capture_output=True, text=True, env=env, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["args"]["month"] == 11
