"""Redis dies of SIGKILL and comes back from its append-only file: `python -m benchmarks.redis_restart`.

    redis_restart_s  from its first PING to the next task running, which waited all the while

Each turn a worker of ours and one of stock Celery each run a job, and a task waits behind it. Redis is killed, the
jobs end, and after OUTAGE_S it is started again: one outage, both sides in databases of their own.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.processes import RedisServer, Sender, workers
from benchmarks.rows import Rows, row, text

TURNS = 5
#: How long Redis is away, s: a process or container that is started again.
OUTAGE_S = 3.0
#: Longest wait for a side to be back, s: stock tries again after up to 30.
BACK_S = 90.0


def run(turns: int = TURNS) -> Rows:
    """Medians of so many outages."""
    took: dict[str, list[float]] = {"mesh": [], "stock": []}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        server = stack.enter_context(RedisServer(folder))
        for database, side in enumerate(took):
            stack.enter_context(workers(side, [side], server.url(database), folder))
        for _ in range(turns):
            for side, seconds in _outage(server, list(took), folder).items():
                took[side].append(seconds)
    return {"redis_restart_s": row(statistics.median(took["mesh"]), "s", statistics.median(took["stock"]))}


def _outage(server: RedisServer, sides: list[str], folder: Path) -> dict[str, float]:
    # Senders of this turn only: that an application reconnects is not measured here.
    with ExitStack() as stack:
        senders = {
            side: stack.enter_context(Sender(side, server.url(database), folder)) for database, side in enumerate(sides)
        }
        gate = folder / "gate"
        held = {side: sender.hold(gate) for side, sender in senders.items()}
        for side, sender in senders.items():
            sender.started(held[side])
        waiting = {side: sender.work()[0] for side, sender in senders.items()}
        server.kill()
        gate.unlink()
        for side, sender in senders.items():
            sender.ended(held[side])
        time.sleep(OUTAGE_S)
        back = server.start()
        took = {side: sender.started(waiting[side], timeout_s=BACK_S) - back for side, sender in senders.items()}
        for side, sender in senders.items():
            sender.ended(waiting[side])
    return took


if __name__ == "__main__":
    print(text(run()))
