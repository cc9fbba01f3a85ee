"""Frames of `gpu-mesh top`: they fit their terminal, show what matters first, and obey nobody's text (SPEC H8)."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from gpu_mesh.cli.top_view import frame
from gpu_mesh.errors import InvalidValue
from gpu_mesh.services.health_views import DeviceVitals, HealthView, NodeVitals
from gpu_mesh.services.recent_alerts import AlertView
from gpu_mesh.services.reporting import line
from gpu_mesh.services.snapshot import DeviceView, NodeView, QueueView, Rates, Snapshot
from gpu_mesh.services.stats_views import parse_span

NOW = 1_700_000_000.0


def device(name: str = "gpu0@office", running: str | None = None, **more: object) -> DeviceView:
    condition = HealthView(
        state="healthy",
        response_ms=12.4,
        device=DeviceVitals(memory_used_gb=18.0, memory_total_gb=24.0, utilisation=0.87, temperature_c=71.0),
    )
    given = {"gpu_type": "NVIDIA GeForce RTX 4090", "memory_gb": 24.0, "power": 100.0, "cost_per_hour": 0.5}
    return DeviceView(worker=name, running=running, **{"condition": condition, **given, **more})


def node(name: str = "office", *devices: DeviceView, **more: object) -> NodeView:
    condition = HealthView(state="degraded", response_ms=3.0, node=NodeVitals(load=0.41, memory=0.6, disk=0.95))
    given = {"role": "lead", "host": "h", "version": "1", "status": "online", "silent_s": 1.0, "labels": {}}
    return NodeView(
        name=name, gpu_count=1, memory_gb=24, devices=list(devices), **{"condition": condition, **given, **more}
    )


def job(number: int, **more: object) -> dict[str, object]:
    told = {"id": f"task-{number:04}", "name": "llm_inference", "queue": "ai-batch", "worker": "gpu0@office"}
    return {**told, "ran_s": 100.0 - number, "preempted": 0, **more}


def seen(**more: object) -> Snapshot:
    queues = [
        QueueView("revenue", 1.0, "interactive", 0, 0),
        QueueView("ai-batch", 0.5, "background", 120, 1, closed="window until 18:00"),
    ]
    given = {
        "nodes": [node("office", device(running="task-0001"))],
        "queues": queues,
        "running": [job(1)],
        "stats": {},
        "at": NOW,
        "rates": Rates(done=34, failed=1, done_in_5=30.2),
    }
    return Snapshot(**{**given, **more})


def shown(what: Snapshot, width: int = 80, height: int | None = 24, problem: str = "") -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None)
    console.print(frame(what, width=width, height=height, problem=problem))
    return out.getvalue().splitlines()


def test_a_frame_says_what_matters():
    text = "\n".join(shown(seen()))
    for told in (
        "nodes 1 (1 degraded)  devices 1 busy 1  waiting 120  running 1  \ndone/min 34  failed 1",
        "██████░░ 18/24 GB",
        "87%",
        "71",
        "load 41% mem 60% disk 95%",
        "llm_inference 2 min",
        "window until 18:00",
    ):
        assert told in text, told
    assert text.index("ai-batch") < text.index("revenue")  # what waits comes first


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("height", [6, 12, 24, 60])
def test_a_frame_fits_its_terminal(width, height):
    many = seen(
        nodes=[node(f"node-{i}", *(device(f"gpu{j}@node-{i}") for j in range(4))) for i in range(20)],
        running=[job(i) for i in range(50)],
        alerts=[AlertView("ERROR", "node", f"node-{i}", "three strikes " * 20, "", NOW - i) for i in range(30)],
    )
    rows = shown(many, width, height)
    assert len(rows) <= height
    assert all(len(row) <= width for row in rows)
    if (width, height) == (80, 24):
        text = "\n".join(rows)
        # Each long section shows some, and says how many it does not; nobody takes the room of all.
        assert min(text.count(" healthy"), text.count("llm_inference"), text.count("three strikes three")) >= 2
        assert text.count(" more") == 3
        assert all(title in text for title in ("node, device", "queue", "running", "alert"))


def test_who_is_ill_is_shown_first():
    fine = HealthView(state="healthy")
    healthy = [node(f"fine-{i}", device(), condition=fine) for i in range(20)]
    ill = node("ill", device(condition=HealthView(state="unhealthy")), condition=fine)
    assert "unhealthy" in "\n".join(shown(seen(nodes=[*healthy, ill])))


def test_all_is_shown_where_nothing_limits_it():
    rows = shown(seen(running=[job(i) for i in range(50)]), 120, None)
    assert sum("llm_inference" in row for row in rows) >= 50
    assert not any(" more" in row for row in rows)


def test_an_empty_mesh_and_one_that_is_away():
    text = "\n".join(shown(Snapshot(nodes=[], queues=[], running=[], stats={}), problem="Redis does not answer"))
    assert "Redis does not answer" in text
    assert "no node yet" in text
    assert "none within five minutes" in text


def test_what_is_not_known_is_a_dash_and_no_zero():
    bare = seen(nodes=[node("office", device(condition=None), condition=None)], running=[])
    text = "\n".join(shown(bare))
    assert "–/24 GB" in text
    assert "online" in text
    away = seen(nodes=[node("office", device(), status="offline", silent_s=300.0)], running=[])
    text = "\n".join(shown(away))
    assert "away 5 min" in text
    assert "18/24" not in text  # what was read of it last is not how it is


def test_no_text_is_obeyed_by_the_terminal_or_taken_for_markup():
    evil = "\x1b[2J[bold]boo[/bold]\n\tx"
    rows = shown(
        seen(
            nodes=[node("office", device(cordoned=evil))],
            running=[job(1, name=evil, id=evil)],
            alerts=[AlertView("ERROR", "node", evil, evil, "", NOW)],
        )
    )
    text = "\n".join(rows)
    assert "\x1b" not in text
    assert "[bold]boo[/bold]" in text


def test_the_line_of_the_log_names_what_is_ill_and_the_alerts():
    """H8: every 60 s, with the alerts of the last five minutes; the mesh's own tasks do not run in it."""
    whole = seen(
        nodes=[node("office", device(running="task-0001")), node("den", device("gpu0@den"), status="offline")],
        running=[job(1), job(2, name="mesh.stats")],
        alerts=[AlertView("ERROR", "node", f"n{i}", "three strikes", "", NOW) for i in range(5)],
    )
    assert line(whole) == (
        "nodes 1 (1 degraded, 1 away) devices 1 busy 1 waiting 120 running 1 done/min 34 failed 1 alerts 5: "
        "ERROR n0: three strikes; ERROR n1: three strikes; ERROR n2: three strikes; and 2 more"
    )
    assert line(replace(whole, alerts=[])).endswith("alerts 0")


@pytest.mark.parametrize(("text", "span_s"), [("10min", 600), ("1h", 3600), ("24H", 86_400), (" 90 s", 90), ("5", 300)])
def test_spans_are_read(text, span_s):
    assert parse_span(text) == span_s


@pytest.mark.parametrize("wrong", ["", "0", "25h", "-1h", "1y", "nan", "1e3"])
def test_what_is_no_span_is_refused(wrong):
    with pytest.raises(InvalidValue, match="last"):
        parse_span(wrong)
