"""`gpu-mesh pause`, `resume`, `windows`, and what is said of queues that are closed (issue 5 §1, §3; SPEC R2)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
import redis
from click.testing import CliRunner, Result
from processes import run
from sample_tasks import add

from gpu_mesh.celery import app
from gpu_mesh.cli import EXIT_USAGE, main
from gpu_mesh.cli.root import root
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.services import gates as service
from gpu_mesh.services import lookup
from gpu_mesh.settings import Settings, settings
from gpu_mesh.store import gates, keys, nodes, server, windows
from gpu_mesh.store.client import connect

pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")


def call(*args: str) -> Result:
    return CliRunner().invoke(root, args)


def said(*args: str) -> str:
    """What the command prints; it must succeed."""
    ran = call(*args)
    assert ran.exit_code == 0, ran.output
    return ran.stdout


@pytest.fixture
def client(broker: str) -> Iterator[redis.Redis]:
    """The store, with peak hours around the clock, in Berlin."""
    with connect(settings()) as found:
        windows.set_plan(found, windows.Plan("00:00-24:00", "Europe/Berlin", "lead"))
        yield found


def held(client: redis.Redis, *queues: str) -> list[tuple[str, str, str]]:
    found = [(gate.queue, gate.reason, gate.scope) for gate in gates.all_gates(client)]
    return [gate for gate in found if not queues or gate[0] in queues]


def join(client: redis.Redis) -> None:
    """A node n1 with one device of 40 GB."""
    device = Device(name="gpu0", node="n1", kind=DeviceKind.FAKE, gpu_type="A40", memory_gb=40.0)
    node = nodes.Node(name="n1", role="compute", host="h", version="0", devices=(device,))
    nodes.register(client, node, instance="i", ttl_s=60)


class TestPause:
    def test_and_resume(self, client: redis.Redis):
        """Each says what it met."""
        assert said("pause", "customer") == "customer: paused until it is resumed\n"
        assert held(client) == [("customer", "manual", "*")]
        again = said("pause", "customer", "--until", "2h", "--why", "disk\nfull", "--by", "ann")
        assert re.fullmatch(r"customer: was paused already, now until .*\d\d:\d\d \(Europe/Berlin\)\n", again)
        (gate,) = gates.all_gates(client)
        assert (gate.by, gate.why) == ("ann", "disk full")
        assert gate.until == pytest.approx(server.now(client) + 7200, abs=30)
        assert said("resume", "customer") == "customer: resumed\n"
        assert said("resume", "customer") == "customer: was not paused\n"
        assert held(client, "customer") == []

    def test_a_node_alone(self, client: redis.Redis):
        """`--scope`: a node or a worker that the mesh knows; each pause is ended where it was made."""
        refused = call("pause", "customer", "--scope", "n1")
        assert "--scope='n1': mesh, a node or a worker: none is known yet" in str(refused.exception)
        join(client)
        assert said("pause", "customer", "--scope", "n1") == "customer: paused until it is resumed, on n1\n"
        assert said("pause", "customer", "--scope", "gpu0@n1").endswith("on gpu0@n1\n")
        assert said("resume", "customer").startswith(
            "customer: was not paused\ncustomer: still closed: paused on gpu0@n1"
        )
        assert said("resume", "customer", "--scope", "n1").startswith("customer: resumed, on n1\n")
        assert held(client, "customer") == [("customer", "manual", "gpu0@n1")]

    def test_for_programs(self, client: redis.Redis):
        """`--json`: what it met, and every reason after it."""
        told = json.loads(said("pause", "customer", "--json", "--why", "disk full", "--by", "ann"))
        assert (told["queue"], told["was_paused"], told["until"]) == ("customer", False, None)
        (gate,) = told["gates"]
        assert gate.pop("since") == pytest.approx(server.now(client), abs=30)
        assert gate == {
            "queue": "customer", "reason": "manual", "scope": "mesh", "by": "ann", "until": None, "why": "disk full",
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("args", "says"),
        [
            (["pause", "urgent"], "queue='urgent': one of revenue, customer"),
            (["pause", "rfa-reminders"], "a queue that needs no GPU is not paused"),
            (["pause", "control"], "a queue that needs no GPU is not paused"),
            (["resume", "urgent"], "queue='urgent'"),
            (["pause", "customer", "--until", "2020-01-01 10:00"], "--until='2020-01-01 10:00': is over"),
            (["pause", "customer", "--until", "soon"], "--until='soon': a time to come"),
            (["pause", "customer", "--scope", "a|b"], "--scope='a|b': mesh, a node or a worker"),
            (["resume", "customer", "--until", "2h"], "--until='2h': only peak hours are opened for a time"),
            (["resume", "ai-batch", "--until", "2h", "--scope", "n1"], "only peak hours"),
            (["resume", "ai-batch", "--until", "0s"], "is over"),
        ],
    )
    def test_mistakes(self, client: redis.Redis, args: list[str], says: str, capsys: pytest.CaptureFixture[str]):
        """Q6, STYLE 18: exit code 2, nothing changed."""
        with pytest.raises(SystemExit) as ended:
            main(args)
        assert ended.value.code == EXIT_USAGE
        assert says in capsys.readouterr().err
        assert held(client) == []
        assert windows.read(client)[1] == {}


class TestPeakHours:
    def test_are_opened_by_hand_and_closed_again(self, client: redis.Redis):
        """Issue 5 §3: `resume --until`; a plain resume says what would help; a pause takes it back."""
        assert said("resume", "ai-batch") == (
            "ai-batch: was not paused\nai-batch: still closed: window; `gpu-mesh resume ai-batch --until 2h` opens it\n"
        )
        assert held(client) == [("ai-batch", "window", "*")]
        assert "open until" in said("resume", "ai-batch", "--until", "2h", "--by", "ann")
        assert held(client) == []
        assert re.search(r"by hand +ai-batch is open until .*, by ann", said("windows"))
        said("pause", "ai-batch")
        assert said("resume", "ai-batch").startswith("ai-batch: resumed\nai-batch: still closed: window")

    def test_are_shown(self, client: redis.Redis):
        """With the time zone, the next change, and that this machine would have others."""
        windows.set_plan(client, windows.Plan("09:00-18:00", "Europe/Berlin", "lead"))
        lines = dict(re.split(r" {2,}|(?<=change) ", line, maxsplit=1) for line in said("windows").splitlines())
        assert lines["peak hours"] == "09:00-18:00, as lead has it"
        assert lines["time zone"] == "Europe/Berlin"
        assert lines["today"] == "09:00-18:00"
        assert re.fullmatch(r"(18:00, off-peak|(\w{3} )?09:00, peak hours)", lines["next change"])
        assert "this machine's own setting is none" in lines["note"]
        told = json.loads(said("windows", "--json"))
        assert told["plan"] == {"hours": "09:00-18:00", "zone": "Europe/Berlin", "by": "lead"}
        assert told["phase"]["until"] > told["now"]

    def test_may_be_none(self, client: redis.Redis):
        """Nothing to show is said."""
        windows.set_plan(client, windows.Plan("none", "UTC", "lead"))
        shown = said("windows")
        assert "no peak hours" in shown
        assert re.search(r"next change +never", shown)


class TestWhy:
    def test_queues_say_it(self, client: redis.Redis):
        """Reason, scope, since, by, until, in words and as JSON."""
        gates.close(client, "customer", "manual", by="ann", until=server.now(client) + 7200, why="disk full")
        gates.close(client, "customer", "manual", by="ben", scope="n1")
        gates.close(client, "ai-batch", "window", by="peak hours", until=server.now(client) - 1)
        found = {queue["name"]: queue for queue in json.loads(said("queues", "--json"))}
        clock = r"(\w{3} )?\d\d:\d\d"
        assert re.fullmatch(
            rf"paused by ann since {clock} until {clock} \(disk full\), paused on n1 by ben since {clock}",
            found["customer"]["closed"],
        )
        assert [gate["scope"] for gate in found["customer"]["gates"]] == ["mesh", "n1"]
        # Its end has come: the next tick drops it.
        assert (found["ai-batch"]["closed"], found["ai-batch"]["gates"]) == (None, [])
        assert "paused" in said("queues")

    def test_queues_say_what_holds_batch_back(self, client: redis.Redis):
        """R3: where a realtime job runs, since when, its id; of many the first ones, and how many more."""
        for number in range(6):
            record = "\t".join(["ai-realtime", "1", "0", "1", "1", "normal", "1000000", "", f"task-{number}"])
            client.hset(keys.claims(f"gpu{number}@n1"), f"tag{number}", record)
            client.zadd(keys.LEASES, {f"gpu{number}@n1": 1e18})
            scope = "n1" if number < 2 else f"gpu{number}@n1"
            client.zadd(keys.realtime(scope), {f"gpu{number}@n1\ttag{number}": 1e6 + number})
        gates.close(client, "ai-batch", "manual", by="ann")
        (found,) = (queue for queue in json.loads(said("queues", "--json")) if queue["name"] == "ai-batch")
        clock = r"1970-01-01 \d\d:\d\d"
        assert re.fullmatch(
            rf"paused by ann since [^,]+, realtime on gpu2@n1 by task-2 since {clock}, realtime on gpu3@n1 by task-3 "
            rf"since {clock}, realtime on gpu4@n1 by task-4 since {clock}, realtime on 2 more",
            found["closed"],
        )
        (node,) = (gate for gate in found["gates"] if gate["scope"] == "n1")
        assert (node["reason"], node["by"], node["since"]) == ("realtime", "task-0, task-1", 1.0)
        assert "still closed: realtime on n1 by task-0 and 1 more since" in said("resume", "ai-batch")
        client.delete(*(keys.claims(f"gpu{number}@n1") for number in range(6)))
        (found,) = (queue for queue in json.loads(said("queues", "--json")) if queue["name"] == "ai-batch")
        assert found["closed"] == "window"

    def test_tasks_say_it(self, client: redis.Redis):
        """`tasks --waiting` and `tasks show`; what cannot run anyway says that."""
        join(client)
        sent = add.delay(1, 1)
        misfit = add.apply_async((1, 1), memory_gb=48)
        gates.close(client, "internal", "manual", by="ann")
        found = {task["id"]: task for task in json.loads(said("tasks", "--waiting", "--json"))}
        assert re.match(r"internal: paused by ann since", found[sent.id]["why"])
        assert (found[sent.id]["state"], found[misfit.id]["state"]) == ("WAITING", "UNSCHEDULABLE")
        assert re.search(r"^why +internal: paused by ann since", said("tasks", "show", sent.id), re.MULTILINE)
        gates.reopen(client, "internal", "manual")
        assert {task.why for task in lookup.waiting_tasks(settings()) if task.id == sent.id} == {None}


class TestSender:
    @pytest.fixture(autouse=True)
    def _anew(self):
        """As a process that has not sent yet."""
        app.__dict__.pop("_notices", None)
        app._checked_at = float("-inf")

    def test_is_told_once(self, client: redis.Redis, caplog: pytest.LogCaptureFixture):
        """Issue 5 §3: a warning, with the end and what opens it; not with each send, nor for what is open."""
        gates.close(client, "internal", "window", until=server.now(client) + 60)
        for _ in range(3):
            add.delay(1, 1)
        add.apply_async((1, 1), business="customer")
        (record,) = caplog.records
        assert (record.name.split(".")[0], record.levelname) == ("gpu_mesh", "WARNING")
        pattern = (
            r"internal: window until (\w{3} )?(\d\d:\d\d); what is sent waits \(`gpu-mesh resume internal --until \2`"
        )
        assert re.match(pattern, record.message)

    def test_is_not_told_of_what_passes(self, client: redis.Redis, caplog: pytest.LogCaptureFixture):
        """Realtime holds come and go; a task for later may find the queue open; one node is not the mesh."""
        gates.close(client, "internal", "realtime")
        gates.close(client, "customer", "manual", scope="n1")
        gates.close(client, "revenue", "manual")
        add.delay(1, 1)
        add.apply_async((1, 1), business="customer")
        add.apply_async((1, 1), business="revenue", countdown=3600)
        assert not caplog.records

    def test_costs_nothing_for_each_send(self, client: redis.Redis):
        """Issue 3, publish_cost: gates are read with the look for the broker, once a second."""
        add.delay(1, 1)
        app._checked_at = float("inf")
        client.config_resetstat()
        for _ in range(5):
            add.delay(1, 1)
        assert "cmdstat_hgetall" not in client.info("commandstats")


def test_whoever_pauses_has_a_name():
    """This user, on this node."""
    assert service.whoami(Settings(node_name="desk")).endswith("@desk")


def test_whoever_submits_is_told(client: redis.Redis):
    """Issue 5 §3: on standard error; what programs read is the id alone."""
    gates.close(client, "ai-batch", "window", until=server.now(client) + 60)
    sent = run("submit", "embeddings", '[["a text"]]')
    assert sent.returncode == 0, sent.stderr
    assert re.match(r"ai-batch: window until .*; what is sent waits \(`gpu-mesh resume ai-batch --until ", sent.stderr)
    (waits,) = lookup.waiting_tasks(settings())
    assert waits.id == sent.stdout.strip()
