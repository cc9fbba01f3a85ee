"""An application's schedule: something each second."""

from gpu_mesh.celery import app

__all__ = ["EVERY_S", "QUEUE"]

QUEUE = "rfa-reminders"
EVERY_S = 1.0

app.conf.beat_schedule["second"] = {"task": "shop.second", "schedule": EVERY_S, "options": {"queue": QUEUE}}
