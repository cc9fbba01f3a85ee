"""What the log leaves out (SPEC H9: a log that people can read)."""

from __future__ import annotations

import logging

import pytest

from gpu_mesh.celery import app
from gpu_mesh.domain.queues import OWN_TASKS
from workers.quiet import OwnWork


@pytest.mark.parametrize(
    ("level", "words", "args", "told"),
    [
        (logging.INFO, "Scheduler: Sending due task %s (%s)", ("line", "mesh.line"), False),
        (logging.INFO, "Task %(name)s[%(id)s] received", ({"id": "1", "name": "mesh.line"},), False),
        (logging.ERROR, "Task %(name)s[%(id)s] raised", ({"id": "1", "name": "mesh.line"},), True),
        (logging.INFO, "Task %(name)s[%(id)s] received", ({"id": "1", "name": "shop.answer"},), True),
        (logging.INFO, "beat: Starting...", (), True),
    ],
)
def test_own_work_that_goes_well_is_not_told(level: int, words: str, args: tuple[object, ...], told: bool):
    record = logging.LogRecord("celery.beat", level, "", 0, words, args, None)
    assert OwnWork().filter(record) is told


def test_own_work_sends_no_events():
    """H9: they would cost as much as the work, every few seconds, and bury an application's tasks in Flower."""
    app.loader.import_default_modules()
    own = {name: task.send_events for name, task in app.tasks.items() if name.startswith(OWN_TASKS)}
    assert {"mesh.availability", "mesh.health", "mesh.windows"} <= own.keys()
    assert not any(own.values())
    assert app.tasks["celery.chord"].send_events


@pytest.mark.parametrize(("name", "told"), [("mesh.windows", False), ("shop.answer", True)])
def test_sending_own_work_is_no_event(name: str, told: bool):
    """H9: nor by whoever sends it: beat, the supervisor."""
    message = app.amqp.create_task_message("id", name, create_sent_event=True)
    assert (message.sent_event is not None) is told


def test_all_is_told_at_debug():
    record = logging.LogRecord("celery.beat", logging.INFO, "", 0, "%s", ("mesh.line",), None)
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.DEBUG)
    try:
        assert OwnWork().filter(record)
    finally:
        root.setLevel(before)
