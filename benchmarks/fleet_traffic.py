"""What a fleet's workers send beside claiming: leases, reaping, delayed tasks, heartbeats. A process of its own."""

from __future__ import annotations

import socket
import time
from importlib.resources import files
from typing import Any

import redis

from benchmarks.wire import ERROR, Recorder, drain
from gpu_mesh.settings import Settings
from gpu_mesh.store import claims, leases
from gpu_mesh.store.scripts import source
from workers.lease import PROMOTE_EVERY_S, RENEWALS

__all__ = ["check", "load_scripts", "traffic"]

#: How often what is due is sent, s.
TICK_S = 0.01
#: Celery's `worker-heartbeat` event, about 300 bytes, every 2 s.
HEARTBEAT = ("PUBLISH", "/0.celeryev/worker.heartbeat", "h" * 300)


def load_scripts(client: redis.Redis) -> None:
    """Have Redis know every script."""
    for entry in (files("gpu_mesh.store") / "lua").iterdir():
        if not entry.name.startswith("_"):
            client.script_load(source(entry.name.removesuffix(".lua")))


def traffic(port: int, workers: list[str], go: Any, lag: Any) -> None:
    """From `go` on send it for ever, evenly spread; `lag.value` is kept at the most it was late by, s."""
    slots = _slots(workers)
    go.wait()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setblocking(False)
        due, turn = time.monotonic(), 0
        while True:
            time.sleep(max(0.0, due - time.monotonic()))
            lag.value = max(lag.value, time.monotonic() - due)
            left = slots[turn % len(slots)]
            while left:
                try:
                    left = left[connection.send(left) :]
                except BlockingIOError:
                    time.sleep(0.001)
                check(connection)
            check(connection)
            due, turn = due + TICK_S, turn + 1


def check(connection: socket.socket) -> None:
    """Take the answers there are. Raises RuntimeError when one is an error."""
    while answer := drain(connection):
        if ERROR in answer or answer[:1] == b"-":
            raise RuntimeError(f"Redis refused: {answer[:300]!r}")


def _slots(workers: list[str]) -> list[bytes]:
    """What to send in each tick of one renewal period."""
    settings = Settings()
    period_s = settings.lease_ttl_s / RENEWALS
    ticks = round(period_s / TICK_S)
    every = round(PROMOTE_EVERY_S / TICK_S)
    slots = [bytearray() for _ in range(ticks)]
    done, none = Recorder(1), Recorder([])
    for i, worker in enumerate(workers):
        first = i % ticks
        # A worker whose lease ended begins another.
        leases.renew(done, worker, settings.lease_ttl_s, anew=True)
        done.execute_command(*HEARTBEAT)
        slots[first] += done.take()
    # One of them tends for all.
    leases.reap(none, max_deliveries=settings.max_deliveries)
    slots[0] += none.take()
    claims.promote(none)
    promote = none.take()
    for tick in range(0, ticks, every):
        slots[tick] += promote
    return [bytes(slot) for slot in slots]
