"""The commands, as a user types them: a mistake is one clear line, never a traceback."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from processes import gpu_mesh, run
from waiting import wait_for

from gpu_mesh.celery import app
from gpu_mesh.cli import EXIT_BROKER, EXIT_FAILED, EXIT_SETTING, EXIT_TIMEOUT, EXIT_USAGE, main
from gpu_mesh.cli.doctor import examine
from gpu_mesh.cli.root import root
from gpu_mesh.cli.run import reachable
from gpu_mesh.errors import PayloadTooLarge
from gpu_mesh.services import lookup
from gpu_mesh.services.task_state import progress_of
from gpu_mesh.settings import Settings, settings
from gpu_mesh.store.client import connect
from gpu_mesh.store.embedded import Address
from workers.gpu import celery_argv
from workers.node import lead_specs, own_devices, worker_specs
from workers.process import EX_CONFIG


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["submit", "test", "--queue", "urgent"], ["queue='urgent'", "revenue, customer, ai-realtime"]),
        (
            ["submit", "test", "--queue", "customer", "--business", "revenue"],
            ["business='revenue'", "queue='customer'"],
        ),
        (["submit", "test", "--business", "marketing"], ["business='marketing'", "revenue, customer, internal"]),
        (["submit", "test", "--priority", "11"], ["priority=11", "0 (low) to 10"]),
        (["submit", "test", "--memory-gb", "-1"], ["memory_gb=-1.0", "from 0"]),
        (["submit", "test", "--memory-gb", "nan"], ["memory_gb=nan"]),
        (["submit", "test", "--require-gpu-type"], ["require_gpu_type=True", "gpu_type"]),
        (["submit", "tset"], ["task='tset'", "embeddings", "GPU_MESH_INCLUDE"]),
        (["submit", "test", "{not json"], ["ARGS=", "JSON"]),
        (["submit", "test", '{"a": 1}'], ["ARGS=", "a JSON list"]),
        (["submit", "test", "--kwargs", '{"secs": 3}'], ["ARGS=", "echo", "secs"]),
        (["submit", "embeddings"], ["ARGS=", "texts"]),
        (["submit", "test", "--label", "owned"], ["--label='owned'", "NAME=VALUE"]),
        (["submit", "test", "--priority", "high"], ["--priority", "integer"]),
        (["submit", "test", "--preemptible", "maybe"], ["--preemptible", "'maybe'", "'yes', 'no', 'restart'"]),
        (["tasks", "--limit", "0"], ["--limit"]),
        (["no-such-command"], ["no-such-command"]),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(
    broker: str, args: list[str], says: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2; the message names field, value and what is allowed."""
    with pytest.raises(SystemExit) as ended:
        main(args)
    said = capsys.readouterr().err
    assert ended.value.code == EXIT_USAGE, said
    for words in says:
        assert words in said
    assert list(lookup.waiting_tasks(settings())) == []


@pytest.mark.parametrize(
    ("words", "header"),
    [
        (["--preemptible", "yes"], {"preemptible": True}),
        (["--preemptible", "no"], {"preemptible": False}),
        (["--preemptible", "restart"], {"preemptible": "restart"}),
        ([], {}),
    ],
)
def test_whether_it_makes_room(broker: str, words: list[str], header: dict[str, object]) -> None:
    """SPEC R3: as the task is sent; where nobody says, its own word holds."""
    sent = CliRunner().invoke(root, ["submit", "test", "--queue", "internal", *words])
    assert sent.exit_code == 0, sent.output
    with connect(settings()) as client:
        [envelope] = client.lrange("internal:6", 0, -1)
    mesh = json.loads(envelope)["headers"]["mesh"]
    assert {name: value for name, value in mesh.items() if name == "preemptible"} == header


def test_a_mistake_is_one_line(broker: str) -> None:
    """In a real process: no traceback, one line."""
    ran = run("submit", "test", "--queue", "urgent")
    assert ran.returncode == EXIT_USAGE
    assert ran.stderr.startswith("error: queue='urgent': one of revenue, ")
    assert len(ran.stderr.splitlines()) == 1


def test_a_payload_too_large_is_refused(broker: str, tmp_path: Path) -> None:
    """50 MB of arguments: refused in the caller, with the limit and its setting."""
    code = "from gpu_mesh.tasks.probe import probe; probe.delay('x' * 50_000_000)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "PayloadTooLarge" in ran.stderr
    assert "10 MB (GPU_MESH_MAX_PAYLOAD_MB)" in ran.stderr
    assert list(lookup.waiting_tasks(settings())) == []


@pytest.mark.parametrize("command", [["submit", "test"], ["queues"], ["wait", "x"], ["worker", "--devices", "cpu"]])
def test_a_broker_that_is_down_is_named(command: list[str], free_port: int) -> None:
    """Bounded wait, then an error that says which address, without its password."""
    ran = run(*command, env={"GPU_MESH_BROKER_URL": f"redis://:secret@127.0.0.1:{free_port}/0"}, timeout_s=30)
    assert ran.returncode == EXIT_BROKER, ran.stderr
    assert f"127.0.0.1:{free_port}" in ran.stderr
    assert "secret" not in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("command", [["submit", "test"], ["queues"], ["worker", "--devices", "cpu"]])
def test_a_wrong_password_is_said(command: list[str], redis_server: Address) -> None:
    """Redis with a wrong password: refused, not waited for."""
    ran = run(*command, env={"GPU_MESH_BROKER_URL": f"redis://:wrong@127.0.0.1:{redis_server.port}/0"}, timeout_s=30)
    assert ran.returncode == EXIT_BROKER, ran.stderr
    assert "refuses us" in ran.stderr
    assert "wrong@" not in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("GPU_MESH_BROKR_URL", "redis://h", "did you mean GPU_MESH_BROKER_URL?"),
        ("GPU_MESH_PEAK_HOURS", "25:00-18:00", "09:00-18:00"),
        ("GPU_MESH_BROKER_URL", "http://h", "redis://"),
        ("GPU_MESH_MEMORY_MARGIN_GB", "-1", "greater than or equal to 0"),
        ("GPU_MESH_DEVICES", "gpu", "nvidia"),
    ],
)
def test_a_bad_setting_is_refused_at_start(name: str, value: str, says: str) -> None:
    """Exit code 78; name, value and what is allowed. Celery's own command fails as clearly."""
    ran = run("config", env={name: value})
    assert ran.returncode == EXIT_SETTING, ran.stderr
    assert name in ran.stderr
    assert value in ran.stderr
    assert says in ran.stderr
    assert "Traceback" not in ran.stderr


def test_config_masks_secrets_and_names_sources() -> None:
    """Every setting with value, source and unit."""
    ran = run("config", "--json", env={"GPU_MESH_BROKER_URL": "redis://:hush@127.0.0.1:1/0", "NODE_NAME": "n1"})
    found = {row["name"]: row for row in json.loads(ran.stdout)}
    assert found["GPU_MESH_BROKER_URL"]["value"] == "redis://:***@127.0.0.1:1/0"
    assert found["GPU_MESH_NODE_NAME"] == {
        "name": "GPU_MESH_NODE_NAME",
        "value": "n1",
        "source": "environment: NODE_NAME",
        "unit": "",
    }
    assert found["GPU_MESH_MEMORY_MARGIN_GB"]["unit"] == "GB"
    assert "hush" not in ran.stdout


def test_wait_gives_up_in_time(broker: str) -> None:
    """Nobody waits for ever."""
    sent = run("submit", "test", "--json")
    ran = run("wait", json.loads(sent.stdout)["task_id"], "--timeout", "0.3")
    assert ran.returncode == EXIT_TIMEOUT
    assert "PENDING" in ran.stderr


def test_wait_shows_progress_however_it_is_told(broker: str, tmp_path: Path) -> None:
    """Celery's documented meta of `current` and `total`, and anything else, is no reason to fail."""
    app.backend.store_result("followed", {"current": 3, "total": 9}, "PROGRESS")
    log = tmp_path / "log"
    ran = run("wait", "followed", "--timeout", "0.3")
    assert ran.returncode == EXIT_TIMEOUT, ran.stderr
    assert "still PROGRESS" in ran.stderr
    with gpu_mesh("wait", "followed", log=log) as process:
        app.backend.store_result("followed", {"answer": 42}, "SUCCESS")
        assert process.wait(30) == 0
    assert '"answer": 42' in log.read_text()


@pytest.mark.parametrize(
    ("info", "progress"),
    [
        ({"done": 1, "total": 4}, (1.0, 4.0)),
        ({"current": 2, "total": 4}, (2.0, 4.0)),
        ({"total": 4, "step": "x"}, (0.0, 4.0)),
        ({"done": 1}, None),
        ({"done": "many", "total": 4}, None),
        ({"pid": 7, "hostname": "gpu0@n"}, None),
        (None, None),
        ("half", None),
    ],
)
def test_what_counts_as_progress(info: object, progress: tuple[float, float] | None) -> None:
    """Any dict with a total."""
    assert progress_of(info) == progress


def test_a_waiting_task_can_be_taken_back(broker: str) -> None:
    """Also while no worker is online; a second time is too late."""
    task_id = json.loads(run("submit", "test", "--json").stdout)["task_id"]
    assert [task["id"] for task in json.loads(run("tasks", "--json").stdout)] == [task_id]
    assert json.loads(run("cancel", task_id, "--json").stdout)["was"] == "waiting"
    assert json.loads(run("tasks", "--json").stdout) == []
    waited = run("wait", task_id)
    assert waited.returncode == EXIT_FAILED
    assert "REVOKED" in waited.stderr
    again = run("cancel", task_id)
    assert again.returncode == EXIT_FAILED
    assert "too late" in again.stdout


def test_the_meshs_own_work_is_not_listed(broker: str) -> None:
    """Beat sends some every few seconds: it would stand among an application's tasks now and then."""
    app.send_task("mesh.windows", queue="control")
    ran = CliRunner().invoke(root, ["tasks", "--json"])
    assert (ran.exit_code, json.loads(ran.stdout)) == (0, [])


@pytest.mark.parametrize("command", ["tasks", "nodes", "queues", "status"])
def test_an_empty_mesh_says_so(broker: str, command: str) -> None:
    """A command with nothing to show says so."""
    ran = run(command)
    assert ran.returncode == 0
    assert ran.stdout.strip()


def test_doctor_tells_what_is_here(broker: str) -> None:
    """Every check has a line; a mesh without nodes is a note, not a fault."""
    ran = run("doctor", "--json")
    assert ran.returncode == 0, ran.stdout
    levels = {finding["check"]: finding["level"] for finding in json.loads(ran.stdout)}
    assert levels.keys() == {"python", "redis", "broker", "state", "devices", "engine", "nodes", "leftovers"}
    assert levels["broker"] == levels["engine"] == levels["redis"] == "ok"


def test_doctor_names_what_is_missing(free_port: int) -> None:
    """A broker that is set but away is missing: exit code 1, with the address."""
    ran = run("doctor", env={"GPU_MESH_BROKER_URL": f"redis://127.0.0.1:{free_port}/0"})
    assert ran.returncode == EXIT_FAILED
    assert f"127.0.0.1:{free_port}" in ran.stdout


def test_completion_is_printed() -> None:
    """Shell completion, for bash, zsh and fish."""
    for shell in ("bash", "zsh", "fish"):
        assert "_GPU_MESH_COMPLETE" in run("completion", shell).stdout


@pytest.mark.parametrize("command", ["worker", "beat", "inspect ping"])
def test_celery_says_a_bad_setting_too(command: str) -> None:
    """`celery -A gpu_mesh` with a bad setting says which, without a traceback."""
    ran = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "gpu_mesh", *command.split()],
        capture_output=True,
        text=True,
        env={**os.environ, "GPU_MESH_PEAK_HOURS": "9-5"},
        timeout=60,
        check=False,
    )
    assert ran.returncode == EXIT_SETTING
    assert "GPU_MESH_PEAK_HOURS='9-5'" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("command", [["submit", "test"], ["up", "--devices", "cpu"], ["worker", "--devices", "cpu"]])
@pytest.mark.parametrize(
    ("module", "says"),
    [("shop.taks", "no such module"), ("no_such_shop", "no such module"), ("broken_shop", "(NameError: name 'oops'")],
)
def test_a_module_that_cannot_be_loaded_is_a_bad_setting(
    command: list[str], module: str, says: str, broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPU_MESH_INCLUDE with a typing error, or a broken module of the working folder: refused before any start."""
    (tmp_path / "shop.py").write_text("")
    (tmp_path / "broken_shop.py").write_text("oops\n")
    monkeypatch.chdir(tmp_path)
    ran = run(*command, env={"GPU_MESH_INCLUDE": f"sample_tasks,{module}"})
    assert ran.returncode == EXIT_SETTING, ran.stdout + ran.stderr
    assert f"GPU_MESH_INCLUDE='{module}'" in ran.stderr
    assert says in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_a_state_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """By `up`, whose Redis needs it."""
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "state"
    ran = run("up", "--devices", "cpu", env={"GPU_MESH_STATE_DIR": str(folder)})
    assert ran.returncode == EXIT_FAILED
    assert f"cannot use the folder {folder}" in ran.stderr
    assert "choose another state folder" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_terminal_without_our_characters_is_no_fault(broker: str) -> None:
    """PYTHONIOENCODING=latin-1, or ascii: a dash it lacks is a question mark."""
    for encoding in ("latin-1", "ascii"):
        ran = run("config", env={"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "LC_ALL": "C"})
        assert ran.returncode == 0, ran.stderr
        assert "?" in ran.stdout


def test_a_user_without_a_home_is_told_what_to_set() -> None:
    """As a container's user without an entry in passwd."""
    code = (
        "import os, gpu_mesh.cli.root; from gpu_mesh.cli import main; "  # while Python's own files may be read
        "os.environ.pop('HOME', None); os.setuid(54321); main(['config'])"
    )
    env = {name: value for name, value in os.environ.items() if name not in ("GPU_MESH_STATE_DIR", "XDG_STATE_HOME")}
    if os.getuid():
        pytest.skip("only root can become a user without an entry in passwd")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60, check=False)
    assert ran.returncode == EXIT_SETTING, ran.stderr
    assert "GPU_MESH_STATE_DIR" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_doctor_survives_a_folder_it_cannot_look_at(broker: str) -> None:
    """A state folder whose very name the system refuses."""
    current = settings().model_copy(update={"state_dir": Path("/" + "x" * 5000)})
    levels = {finding.check: finding.level for finding in examine(current)}
    assert levels["state"] == "missing"


def test_a_refused_setting_stops_the_node_and_the_lead_takes_no_gpu() -> None:
    """No worker is started again for ever; control and CPU workers see no GPU."""
    current = Settings(_env_file=None)
    lead = lead_specs(current)
    for spec in [*lead, *worker_specs(current, own_devices(current))]:
        assert spec.fatal_exit_codes == {EX_CONFIG}
    assert {spec.name: spec.env.get("CUDA_VISIBLE_DEVICES") for spec in lead} == {
        "control": "",
        "cpu": "",
        "beat": None,
    }
    assert EX_CONFIG == EXIT_SETTING


def test_up_gives_up_a_redis_that_keeps_ending(tmp_path: Path) -> None:
    """A data folder that Redis refuses: no restart for ever, one clear line."""
    data = tmp_path / "redis" / "data"
    data.mkdir(parents=True)
    (data / "appendonly.aof").write_text("nonsense\n")
    ran = run("up", "--devices", "cpu", env={"GPU_MESH_STATE_DIR": str(tmp_path)}, timeout_s=50)
    assert ran.returncode == EXIT_FAILED, ran.stdout + ran.stderr
    assert "redis-server ended instead of serving" in ran.stderr
    assert "Traceback" not in ran.stdout + ran.stderr


@pytest.mark.parametrize(("level", "told"), [("INFO", 1), ("ERROR", 0)])
def test_an_event_is_told_once(level: str, told: int, broker: str, tmp_path: Path) -> None:
    """A death is one line of `worker`'s output; GPU_MESH_LOG_LEVEL leaves out what is below."""
    log = tmp_path / "log"
    env = {"GPU_MESH_LOG_LEVEL": level, "GPU_MESH_STATE_DIR": str(tmp_path), "GPU_MESH_BROKER_URL": broker}
    with gpu_mesh("worker", "--devices", "cpu", log=log, ready="device", env=env) as node:
        this = psutil.Process(node.pid)
        (child,) = wait_for(lambda: device_workers(this), "the worker")
        child.kill()
        wait_for(lambda: any(c.pid != child.pid for c in device_workers(this)), "another")
    assert log.read_text().count("cpu0 died") == told, log.read_text()


def device_workers(node: psutil.Process) -> list[psutil.Process]:
    """Those that run: before its exec a child has its parent's command line."""
    found = []
    for child in node.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(word.startswith("--hostname=") for word in child.cmdline()):
                found.append(child)
    return found


@pytest.mark.parametrize("listen", ["::", "0.0.0.0"])
def test_the_join_line_names_an_address_of_the_family_asked_for(listen: str) -> None:
    """IPv6 in brackets, or this machine's name where it has no such address."""
    host = reachable(listen)
    assert (":" in host) == (listen == "::") or host == socket.gethostname()
    assert f"@[{host}]:1/" in Address(host, 1, "x").url or ":" not in host


def test_a_payload_too_large_is_refused_by_name_too(broker: str) -> None:
    """`send_task` has the limit of `.delay()`."""
    with pytest.raises(PayloadTooLarge, match="GPU_MESH_MAX_PAYLOAD_MB"):
        app.send_task("somewhere.else", ["x" * 50_000_000])
    assert list(lookup.waiting_tasks(settings())) == []


def test_cancel_names_a_broker_that_is_down(free_port: int) -> None:
    """The result backend's own words are a traceback."""
    ran = run("cancel", "x", env={"GPU_MESH_BROKER_URL": f"redis://127.0.0.1:{free_port}/0"}, timeout_s=30)
    assert ran.returncode == EXIT_BROKER, ran.stderr
    assert f"127.0.0.1:{free_port}" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_an_application_may_have_a_module_named_workers(tmp_path: Path) -> None:
    """The processes of a mesh load ours, and find the application's other modules all the same."""
    for name in ("workers", "beat_schedule"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the application\\'s own')\n")
    ran = subprocess.run(
        celery_argv("worker", "--help"), capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "--hostname" in ran.stdout
