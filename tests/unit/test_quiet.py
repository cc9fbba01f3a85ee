"""What the log leaves out (SPEC H9: a log that people can read)."""

from __future__ import annotations

import logging

import pytest

from workers.quiet import OwnWork


@pytest.mark.parametrize(
    ("level", "words", "args", "told"),
    [
        (logging.INFO, "Scheduler: Sending due task %s (%s)", ("usage", "mesh.usage"), False),
        (logging.INFO, "Task %(name)s[%(id)s] received", ({"id": "1", "name": "mesh.usage"},), False),
        (logging.ERROR, "Task %(name)s[%(id)s] raised", ({"id": "1", "name": "mesh.usage"},), True),
        (logging.INFO, "Task %(name)s[%(id)s] received", ({"id": "1", "name": "shop.answer"},), True),
        (logging.INFO, "beat: Starting...", (), True),
    ],
)
def test_own_work_that_goes_well_is_not_told(level: int, words: str, args: tuple[object, ...], told: bool):
    record = logging.LogRecord("celery.beat", level, "", 0, words, args, None)
    assert OwnWork().filter(record) is told


def test_all_is_told_at_debug():
    record = logging.LogRecord("celery.beat", logging.INFO, "", 0, "%s", ("mesh.usage",), None)
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.DEBUG)
    try:
        assert OwnWork().filter(record)
    finally:
        root.setLevel(before)
