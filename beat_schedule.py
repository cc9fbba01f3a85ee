"""The periodic schedule as data: name → task, when, queue. Beat reads it; `gpu-mesh config` does not change it."""

from __future__ import annotations

from typing import Any

from celery.schedules import crontab

from gpu_mesh.celery import app
from gpu_mesh.domain.queues import CONTROL_QUEUE
from gpu_mesh.services import reporting
from gpu_mesh.settings import settings

__all__ = ["SCHEDULE"]

_WINDOWS: dict[str, Any] = {"task": "mesh.windows", "options": {"queue": CONTROL_QUEUE, "expires": 30.0}}

SCHEDULE: dict[str, dict[str, Any]] = {
    "tidy": {
        "task": "mesh.tidy",
        "schedule": 3600.0,
        # Beat may catch up after a pause: one run is enough.
        "options": {"queue": CONTROL_QUEUE, "expires": 3600.0},
    },
    # Windows open and close at whole minutes, in every time zone.
    "windows": {**_WINDOWS, "schedule": crontab()},
    # What was missed is mended.
    "windows-mend": {**_WINDOWS, "schedule": 30.0},
    "health": {
        "task": "mesh.health",
        "schedule": 30.0,
        "options": {"queue": CONTROL_QUEUE, "expires": 30.0},
    },
    "stats": {
        "task": "mesh.stats",
        "schedule": reporting.STATS_EVERY_S,
        "options": {"queue": CONTROL_QUEUE, "expires": reporting.STATS_EVERY_S},
    },
    "line": {
        "task": "mesh.line",
        "schedule": reporting.LINE_EVERY_S,
        "options": {"queue": CONTROL_QUEUE, "expires": reporting.LINE_EVERY_S},
    },
}

app.conf.beat_schedule = SCHEDULE


@app.on_after_configure.connect
def follow_settings(**_: Any) -> None:
    """What is a setting, once settings are read: not when this module is imported."""
    every_s = settings().health_every_s
    SCHEDULE["health"] |= {"schedule": every_s, "options": {"queue": CONTROL_QUEUE, "expires": every_s}}
