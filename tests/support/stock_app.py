"""Celery as it comes, on the same Redis: it knows nothing of the mesh but the wire contract of DESIGN §4.

`celery -A stock_app worker` runs it; the address is in STOCK_BROKER.
"""

from __future__ import annotations

import os

from celery import Celery

STOCK_BROKER = "STOCK_BROKER"


def stock_app(url: str) -> Celery:
    """Such an app for this address."""
    app = Celery("stock", broker=url, backend=url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        result_serializer="json",
        broker_transport_options={"sep": ":", "priority_steps": [0, 3, 6, 9], "queue_order_strategy": "priority"},
        broker_connection_retry_on_startup=True,
        imports=["sample_tasks"],
    )
    return app


if STOCK_BROKER in os.environ:
    app = stock_app(os.environ[STOCK_BROKER])
