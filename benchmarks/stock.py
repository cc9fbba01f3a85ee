"""Stock Celery with the options the mesh uses too, so that only transport, claim and bookkeeping differ."""

from __future__ import annotations

import os

from celery import Celery

app = Celery("stock", broker=os.environ["BENCH_BROKER"], backend=os.environ["BENCH_BROKER"])
app.conf.update(
    imports=["benchmarks.tasks"],
    task_serializer="json",
    accept_content=["json"],
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_track_started=True,
    task_send_sent_event=True,
    worker_send_task_events=True,
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=True,
    result_extended=True,
    broker_connection_retry_on_startup=True,
    task_default_queue="internal",
    broker_transport_options={"sep": ":", "priority_steps": [0, 3, 6, 9], "queue_order_strategy": "priority"},
)
app.set_default()
