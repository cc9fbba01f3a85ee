"""Celery as it comes, with the ledger's tasks: a worker with `celery -A stock_ledger_app worker`, or a sender.

`python stock_ledger_app.py QUEUE COUNT LEDGER` sends `COUNT` tasks and prints their ids. STOCK_BROKER is the address,
STOCK_VISIBILITY_S after how long such a worker gives back what somebody holds.
"""

from __future__ import annotations

import os
import sys

from celery import Celery

app = Celery("stock", broker=os.environ.get("STOCK_BROKER", "memory://"), set_as_current=True)
app.conf.update(
    task_serializer="json",
    accept_content=["json"],
    broker_transport_options={
        "sep": ":",
        "priority_steps": [0, 3, 6, 9],
        "queue_order_strategy": "priority",
        "visibility_timeout": float(os.environ.get("STOCK_VISIBILITY_S", "3600")),
    },
    imports=["ledger_tasks"],
)

if __name__ == "__main__":
    queue, count, ledger = sys.argv[1:]
    assert "gpu_mesh" not in sys.modules
    for _ in range(int(count)):
        sys.stdout.write(f"{app.send_task('ledger.work', [ledger], queue=queue, priority=6).id}\n")
