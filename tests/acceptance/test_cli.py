"""The commands, as a user types them: a mistake is one clear line, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import run

from gpu_mesh.cli import EXIT_BROKER, EXIT_FAILED, EXIT_SETTING, EXIT_TIMEOUT, EXIT_USAGE, main
from gpu_mesh.services import lookup
from gpu_mesh.settings import settings
from gpu_mesh.store.embedded import Address


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
        (["submit", "test", "--label", "owned"], ["--label='owned'", "NAME=VALUE"]),
        (["submit", "test", "--priority", "high"], ["--priority", "integer"]),
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
    assert levels.keys() == {"python", "redis", "broker", "state", "devices", "engine", "nodes"}
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
