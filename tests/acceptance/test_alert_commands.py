"""`gpu-mesh alerts` and its settings (SPEC H6; issue 6 §4)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner, Result
from processes import run
from receivers import webhook

from gpu_mesh.cli import EXIT_SETTING
from gpu_mesh.cli.root import root
from gpu_mesh.domain.alerts import Alert, Level
from gpu_mesh.errors import InvalidSetting, InvalidValue
from gpu_mesh.services import alerts
from gpu_mesh.services.channels import check
from gpu_mesh.settings import Settings, settings
from gpu_mesh.store import alerts as store
from gpu_mesh.store import outbox, server
from gpu_mesh.store.client import connect

#: A token that is not to be seen anywhere.
SECRET = "xoxb-s3cret-s3cret"


@pytest.fixture
def client(broker: str) -> Iterator[redis.Redis]:
    with connect(settings()) as found:
        outbox.announce(found)
        yield found


def call(*args: str) -> Result:
    return CliRunner().invoke(root, ["alerts", *args])


def said(*args: str) -> str:
    ran = call(*args)
    assert ran.exit_code == 0, ran.output
    return ran.stdout


def raise_(client: redis.Redis, subject: str = "n1", level: Level = Level.ERROR) -> None:
    alerts.post(client, Alert(rule="node", subject=subject, level=level, text="does not answer", remedy="look"))


def test_what_stands_and_what_was(client: redis.Redis):
    """The gravest first; a day of what is over, with --all more; as JSON."""
    assert said() == "no alerts within a day\n"
    raise_(client, "n1")
    raise_(client, "n2", Level.CRITICAL)
    raise_(client, "n3")
    alerts.clear(client, "node", "n3", "is back")
    lines = said().splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["CRITICAL", "node", "n2"], ["ERROR", "node", "n1"], ["ERROR", "node", "n3"],
    ]  # fmt: skip
    told = json.loads(said("--json"))
    assert [one["subject"] for one in told["standing"]] == ["n2", "n1"]
    assert told["standing"][0]["remedy"] == "look"
    (past,) = told["past"]
    assert past["raised"] <= past["recovered"] <= server.now(client)
    old = json.dumps({**past, "recovered": past["recovered"] - 90_000.0})
    client.lset(f"{'gpumesh:'}alerts:past", 0, old)
    assert "n3" not in said()
    assert "n3" in said("--all")


def test_what_changes_something_is_in_the_log_file(client: redis.Redis):
    """As every such command (docs/logs.md); what only shows is not."""
    file = settings().state_dir / "log" / "mesh.log"
    before = file.stat().st_size if file.exists() else 0
    raise_(client)
    said("silence", "backlog", "--by", "ann")
    said("silences")
    said("clear", "node", "n1")
    said()
    lines = map(json.loads, file.read_bytes()[before:].splitlines())
    told = [line["message"] for line in lines if line.get("action") == "command"]
    assert len(told) == 2
    assert "by=ann" in told[0]
    assert "rule=node subject=n1" in told[1]


def test_silences(client: redis.Redis):
    """Made with an end in words, shown, taken back; of what they match nothing goes out."""
    raise_(client)
    made = said("silence", "node", "--subject", "n*", "--until", "2h", "--why", "new\nswitch", "--by", "ann")
    assert made.startswith("silence ")
    assert made.endswith("; 1 such alerts stand now\n")
    assert "ERROR (silenced)" in said()
    raise_(client, "n2")
    assert [one.subject for one in outbox.pending(client)] == ["n1"]
    (one,) = json.loads(said("silences", "--json"))
    assert (one["rule"], one["subject"], one["by"], one["why"]) == ("node", "n*", "ann", "new switch")
    assert one["until"] == pytest.approx(server.now(client) + 7200, abs=30)
    assert "new switch" in said("silences")
    assert said("unsilence", one["id"]) == f"silence {one['id']} ended: node of n*\n"
    assert said("silences") == "no silences\n"
    raise_(client, "n2")
    assert [one.subject for one in outbox.pending(client)] == ["n1", "n2"]
    said("silence", "*")
    said("silence", "backlog", "--subject", "ai-batch")
    assert len(said("unsilence", "all").splitlines()) == 2
    assert said("unsilence", "all") == "no silences\n"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["silence", "nodes"], "RULE='nodes': one of device, node"),
        (["silence", ""], "RULE='': a name"),
        (["silence", "node", "--subject", " "], "--subject='': a name"),
        (["silence", "node", "--until", "soon"], "--until='soon': a time to come"),
        (["unsilence", "abc"], "no such silence"),
    ],
)
def test_mistakes(client: redis.Redis, args: list[str], says: str):
    ran = call(*args)
    assert isinstance(ran.exception, InvalidValue)
    assert says in str(ran.exception)
    assert store.silences(client) == []


def test_one_is_taken_back_by_hand(client: redis.Redis):
    """Whose poster is gone for good."""
    raise_(client)
    assert said("clear", "node", "n1") == "node of n1: taken back\n"
    assert store.standing(client) == []
    assert call("clear", "node", "n1").exit_code == 1


class TestTheTest:
    def test_tells_of_each_channel(self, free_port: int, tmp_path: Path):
        """One message through each, from either setting; one that fails is named and makes the exit code 1; no Redis
        is needed."""
        with webhook() as hook:
            (tmp_path / "urls").write_text(f"# the pager\nCRITICAL=json://127.0.0.1:{free_port}/{SECRET}\n")
            env = {
                "GPU_MESH_BROKER_URL": f"redis://127.0.0.1:{free_port}",
                "GPU_MESH_ALERT_URLS": hook.url(SECRET),
                "GPU_MESH_ALERT_URLS_FILE": str(tmp_path / "urls"),
            }
            ran = run("alerts", "test", env=env)
            assert ran.returncode == 1, ran.stderr
            lines = ran.stdout.splitlines()[1:]
            assert lines[0].split() == ["json", "(channel", "1)", "WARNING", "sent"]
            assert lines[1].startswith("json (channel 2)  CRITICAL    A Connection error occurred")
            assert SECRET not in ran.stdout + ran.stderr
            assert [post["title"] for post in hook.posts] == [
                "[gpu-mesh] INFO test-node: this is a test: alerts arrive here"
            ]

    def test_without_channels(self, broker: str):
        assert "no channel but the log" in said("test")


class TestSettings:
    @pytest.mark.parametrize(
        ("url", "says"),
        [
            (f"slack:/{SECRET}", "address 1 is none"),
            (f"LOUD=json://{SECRET}", "address 1: before its `=` one of INFO, WARNING, ERROR, CRITICAL"),
            ("slack://T1JJ3T3L2/s3cret/#general", "address 1, slack://…, is none that apprise knows"),
            (f"json://h/x foo://{SECRET}", "address 2, foo://…, is none that apprise knows"),
        ],
    )
    def test_a_wrong_address_is_refused_at_start(self, url: str, says: str):
        """Exit code 78, the setting, what is wrong with it and what to do; never the secret."""
        ran = run("control", env={"GPU_MESH_ALERT_URLS": url})
        assert ran.returncode == EXIT_SETTING, ran.stderr
        assert f"GPU_MESH_ALERT_URLS='***': {says}" in ran.stderr
        assert "s3cret" not in ran.stdout + ran.stderr

    def test_a_misspelt_name_shows_no_secret(self):
        for name in ("GPU_MESH_ALERT_URL", "GPU_MESH_ALRT_URLS"):
            ran = run("config", env={name: f"slack://{SECRET}"})
            assert ran.returncode == EXIT_SETTING
            assert "did you mean GPU_MESH_ALERT_URLS" in ran.stderr
            assert "s3cret" not in ran.stderr

    def test_secrets_are_not_shown(self):
        found = Settings(alert_urls=f"json://h/{SECRET}")
        assert SECRET not in repr(found)
        ran = run("config", env={"GPU_MESH_ALERT_URLS": f"json://h/{SECRET}"})
        assert ran.returncode == 0
        assert "GPU_MESH_ALERT_URLS" in ran.stdout
        assert SECRET not in ran.stdout

    def test_a_file_that_cannot_be_read(self, tmp_path: Path):
        with pytest.raises(InvalidSetting, match=r"GPU_MESH_ALERT_URLS_FILE=.*cannot be read"):
            check(Settings(alert_urls_file=tmp_path / "none"))
        (tmp_path / "urls").write_text(f"json://h\n{SECRET}")
        with pytest.raises(InvalidSetting, match=r"GPU_MESH_ALERT_URLS_FILE='\*\*\*': address 2 is none"):
            check(Settings(alert_urls_file=tmp_path / "urls"))
        (tmp_path / "urls").write_text(f"foo://{SECRET}")
        with pytest.raises(InvalidSetting, match=r"GPU_MESH_ALERT_URLS_FILE='\*\*\*': address 1, foo"):
            check(Settings(alert_urls_file=tmp_path / "urls"))
