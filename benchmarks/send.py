"""Sends tasks for one side: `python -m benchmarks.send stock|mesh`, its own process, for the two apps must not meet.

Reads lines of JSON, {task, args, queues, count}: so many of the task, over the queues in turn. Answers each with a
line: their ids.
"""

from __future__ import annotations

import importlib
import json
import sys


def main(side: str) -> None:
    """Until its input ends."""
    app = importlib.import_module("benchmarks.stock" if side == "stock" else "gpu_mesh").app
    app.set_default()
    for line in sys.stdin:
        asked = json.loads(line)
        queues = asked["queues"]
        ids = [
            app.send_task(
                asked["task"], asked["args"], queue=queues[i % len(queues)], priority=6, ignore_result=True
            ).id
            for i in range(asked["count"])
        ]
        print(json.dumps(ids), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
