"""`gpu-mesh purge`, `move`, `tasks show`, `doctor --mend` and `status`, as a user types them (issue 3 §6, §8, §12)."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from celery.result import AsyncResult
from click.testing import CliRunner, Result
from processes import gpu_mesh
from sample_tasks import add
from waiting import wait_for

from gpu_mesh.celery import app
from gpu_mesh.cli import EXIT_FAILED, EXIT_USAGE, main
from gpu_mesh.cli.root import root
from gpu_mesh.services import lookup
from gpu_mesh.settings import settings
from gpu_mesh.store import keys
from gpu_mesh.store.client import connect

pytestmark = [
    pytest.mark.usefixtures("broker"),
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),
]


#: Tasks that keep a command busy long enough to be killed.
MANY = 3000


def call(*args: str, answer: str | None = None) -> Result:
    """The command, with what is typed at its prompt."""
    return CliRunner().invoke(root, args, input=answer)


def waiting() -> dict[str, str]:
    return {task.id: task.queue for task in lookup.waiting_tasks(settings())}


class TestPurge:
    def test_asks_and_counts(self):
        """What would be dropped is shown first; the count after."""
        sent = [add.delay(n, n) for n in range(3)]
        add.apply_async((1, 1), countdown=600)
        ran = call("purge", "internal", answer="y\n")
        assert ran.exit_code == 0, ran.output
        assert "internal: 3 waiting, 1 delayed. Drop for good? [y/N]" in ran.stderr
        assert ran.stdout == "internal: 4 purged\n"
        assert waiting() == {}
        assert {task.state for task in sent} == {"REVOKED"}

    def test_no_means_no(self):
        """Nothing is changed, and the exit code says so; Ctrl-D is no as well."""
        add.delay(1, 1)
        ran = call("purge", "internal", answer="n\n")
        assert (ran.exit_code, ran.stdout) == (EXIT_FAILED, "")
        assert "nothing was changed" in ran.stderr
        assert call("purge", "internal", answer="").exit_code != 0
        assert len(waiting()) == 1

    def test_for_programs(self):
        """`--yes` and `--json`."""
        add.delay(1, 1)
        assert json.loads(call("purge", "internal", "--yes", "--json").stdout) == {"queue": "internal", "purged": 1}
        assert json.loads(call("purge", "internal", "--yes", "--json").stdout) == {"queue": "internal", "purged": 0}

    def test_an_empty_queue_says_so(self):
        """And asks nothing."""
        assert call("purge", "internal").stdout == "internal: nothing waits\n"


class TestMove:
    def test_asks_and_counts(self):
        """With a limit, the most urgent and oldest."""
        sent = [add.delay(n, n).id for n in range(3)]
        ran = call("move", "internal", "customer", "--limit", "2", answer="y\n")
        assert "internal: 3 waiting, 0 delayed. Move 2 to customer? [y/N]" in ran.stderr
        assert ran.stdout == "internal: 2 moved\n"
        assert waiting() == {sent[0]: "customer", sent[1]: "customer", sent[2]: "internal"}

    @pytest.mark.parametrize(
        ("args", "says"),
        [
            (["purge", "urgent"], "queue='urgent': one of revenue, customer"),
            (["move", "internal", "urgent"], "to='urgent': one of revenue, customer"),
            (["move", "urgent", "internal"], "queue='urgent'"),
            (["move", "internal", "internal"], "to='internal': another queue"),
            (["move", "internal", "customer", "--limit", "0"], "--limit"),
        ],
    )
    def test_mistakes(self, args: list[str], says: str, capsys: pytest.CaptureFixture[str]):
        """Exit code 2, before anything is asked."""
        with pytest.raises(SystemExit) as ended:
            main(args)
        assert ended.value.code == EXIT_USAGE
        assert says in capsys.readouterr().err


class TestTasks:
    def test_lists_as_before(self):
        """The options of `gpu-mesh tasks` work without a subcommand."""
        sent = add.delay(1, 1)
        assert [task["id"] for task in json.loads(call("tasks", "--waiting", "--json").stdout)] == [sent.id]
        assert "no tasks running" in call("tasks", "--running").stdout

    def test_show_waiting(self):
        """Everything known, one line each."""
        sent = add.apply_async((1, 1), memory_gb=48, priority=9)
        lines = dict(line.split(None, 1) for line in call("tasks", "show", sent.id).stdout.splitlines())
        assert lines["id"] == sent.id
        assert (lines["task"], lines["state"], lines["queue"]) == ("sample_tasks.add", "UNSCHEDULABLE", "internal")
        assert (lines["priority"], lines["position"]) == ("9", "0")
        assert (lines["needs"], lines["why"]) == ('{"memory_gb": 48.0}', "no device is online")
        assert "worker" not in lines

    def test_show_ended(self):
        """Result, or error."""
        app.backend.store_result("good", [1, 2], "SUCCESS")
        assert json.loads(call("tasks", "show", "good", "--json").stdout)["result"] == "[1, 2]"
        app.backend.store_result("long", "x" * 5000, "SUCCESS")
        assert len(call("tasks", "show", "long").stdout) < 2200
        app.backend.store_result("bad", ValueError("no"), "FAILURE")
        assert "error       ValueError: no" in call("tasks", "show", "bad").stdout

    def test_show_unknown(self):
        """Exit code 1 and a clear line."""
        ran = call("tasks", "show", "nobody")
        assert ran.exit_code == EXIT_FAILED
        assert "task_id='nobody': no such task" in ran.stderr


class TestMend:
    @pytest.fixture(autouse=True)
    def _left(self, broker: str):
        """One message of a stock worker, two hours old."""
        delivery = {"delivery_tag": "tag", "priority": 6, "delivery_info": {"routing_key": "internal"}}
        envelope = {"body": "", "headers": {"id": "left", "task": "t"}, "properties": delivery}
        with connect(settings()) as client:
            client.hset("unacked", "tag", json.dumps([envelope, "", "internal"]))
            client.zadd("unacked_index", {"tag": time.time() - 7200})

    def test_plain_doctor_only_tells(self):
        """A note, with the remedy."""
        ran = call("doctor")
        assert "1 message held by stock Celery workers, the oldest for 2 h" in ran.stdout
        assert "gpu-mesh doctor --mend" in ran.stdout
        assert waiting() == {}

    def test_mend_asks(self):
        """Put back after a yes."""
        ran = call("doctor", "--mend", answer="n\n")
        assert "messages of stock Celery workers: 1 can be put back" in ran.stdout
        assert waiting() == {}
        assert call("doctor", "--mend", answer="y\n").stdout.endswith("1 put back\n")
        assert waiting() == {"left": "internal"}

    def test_for_programs(self):
        """Findings and the count as JSON; younger ones only when that is said."""
        told = json.loads(call("doctor", "--mend", "--older-than", "9000", "--yes", "--json").stdout)
        assert told["put_back"] == 0
        told = json.loads(call("doctor", "--mend", "--all", "--yes", "--json").stdout)
        assert told["put_back"] == 1
        assert {finding["check"] for finding in told["findings"]} >= {"broker", "leftovers"}


def killed(tmp_path: Path, *args: str) -> None:
    """The command on many tasks of `internal`, killed once it has begun."""
    with gpu_mesh(*args, "--yes", log=tmp_path / "log", stop=False) as process, connect(settings()) as client:
        wait_for(lambda: client.llen("internal:6") < MANY - 100 or process.poll() is not None, "it to have begun")
        process.kill()
        process.wait()
        assert 0 < client.llen("internal:6") < MANY


def send_many() -> set[str]:
    """Tasks for a command that takes a while; their ids."""
    add.delay(1, 1)
    with connect(settings()) as client:
        raw = client.rpop("internal:6")
        task_id = json.loads(raw)["headers"]["id"]
        ids = [f"many-{number}" for number in range(MANY)]
        client.lpush("internal:6", *(raw.replace(task_id, each) for each in ids))
    return set(ids)


def test_a_move_that_is_killed_loses_nothing(tmp_path: Path):
    """Every message is in one of the two queues, and in one only; the rest goes with the next move."""
    sent = send_many()
    killed(tmp_path, "move", "internal", "customer")
    found = [task.id for task in lookup.waiting_tasks(settings())]
    assert len(found) == MANY
    assert set(found) == sent
    assert call("move", "internal", "customer", "--yes").exit_code == 0
    assert set(waiting().values()) == {"customer"}


def test_a_purge_that_is_killed_leaves_nobody_waiting(tmp_path: Path):
    """What it had taken out is marked by the next one: each waits or is REVOKED."""
    sent = send_many()
    killed(tmp_path, "purge", "internal")
    left = set(waiting())
    assert call("purge", "customer", "--yes").exit_code == 0
    assert {task_id for task_id in sent - left if AsyncResult(task_id, app=app).state != "REVOKED"} == set()
    assert set(waiting()) == left


def test_status_counts_saved_swaps():
    """P7: what model affinity saved."""
    assert "models    0 swaps saved" in call("status").stdout
    with connect(settings()) as client:
        client.hset(keys.STATS, "swaps_saved", 7)
    assert "models    7 swaps saved" in call("status").stdout
    assert json.loads(call("status", "--json").stdout)["stats"]["swaps_saved"] == 7
