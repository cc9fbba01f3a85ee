"""Claims of batch jobs that race with realtime ones for the same node: `python -m benchmarks.gate_races`.

    gate_races         batch jobs handed out while a realtime job was active in their scope
    gate_races_run     realtime jobs, each of them a race
    gate_races_others  batch jobs handed out on the other node meanwhile: they show that workers did race

A real Redis with the real scripts; workers are threads, two on each of two nodes, the scope is the node. What counts is
the order in which Redis decided: each claim's time is the one its script wrote down, and a realtime job's end is the
time Redis gave before its ack was sent. BENCH_RACES_SEED changes the chances.
"""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from dataclasses import dataclass

import redis

from benchmarks import claim_cost
from benchmarks.asking import Asker
from benchmarks.rows import Rows, row, text
from gpu_mesh.domain.holds import HELD_QUEUE, node_of
from gpu_mesh.store import claims, keys, leases, server

RACES, SEED = 1000, 5
WORKERS = ("gpu0@one", "gpu1@one", "gpu0@two", "gpu1@two")
#: Batch jobs that wait at the start, and how few may be left before more are sent.
BACKLOG, LEAST = 2000, 500
#: Longest job, and longest time between two realtime jobs, s.
JOB_S, GAP_S = 0.002, 0.004
NEEDS = '{"memory_gb": 1}'
LEASE_S = 600.0


@dataclass(frozen=True, slots=True)
class Job:
    """A job that ran from `start` to `end`, s by Redis's clock."""

    node: str
    queue: str
    start: float
    end: float


def run(races: int = RACES, seed: int = 0) -> Rows:
    """So many realtime jobs."""
    seed = seed or int(os.environ.get("BENCH_RACES_SEED", SEED))
    with claim_cost.server() as client:
        jobs = _race(client, races, seed)
    batch = [job for job in jobs if job.queue == HELD_QUEUE]
    realtime = [job for job in jobs if job.queue != HELD_QUEUE]
    return {
        "gate_races": row(began_within(batch, realtime), "jobs"),
        "gate_races_run": row(len(realtime), "races"),
        "gate_races_others": row(began_within(batch, realtime, same_node=False), "jobs"),
    }


def began_within(batch: list[Job], realtime: list[Job], *, same_node: bool = True) -> int:
    """How many of `batch` began while one of `realtime` ran on the same node, or on another one."""
    return sum(
        any((job.node == other.node) == same_node and other.start < job.start < other.end for other in realtime)
        for job in batch
    )


def _race(client: redis.Redis, races: int, seed: int) -> list[Job]:
    claims.load(client)
    for worker in WORKERS:
        leases.renew(client, worker, LEASE_S, anew=True)
    _send_batch(client)
    jobs: list[Job] = []
    over = threading.Event()
    threads = [
        threading.Thread(target=_work, args=(client, worker, random.Random(f"{seed} {worker}"), jobs, over))
        for worker in WORKERS
    ]
    for thread in threads:
        thread.start()
    chance = random.Random(seed)
    try:
        for _ in range(races):
            claim_cost.publish_one(client, "ai-realtime", NEEDS, str(uuid.uuid4()))
            if client.llen(f"{HELD_QUEUE}:6") < LEAST:
                _send_batch(client)
            time.sleep(chance.uniform(0, GAP_S))
        while client.llen("ai-realtime:6"):
            time.sleep(GAP_S)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    return jobs


def _send_batch(client: redis.Redis) -> None:
    pipe = client.pipeline(transaction=False)
    for _ in range(BACKLOG):
        claim_cost.publish_one(pipe, HELD_QUEUE, NEEDS, str(uuid.uuid4()))
    pipe.execute()


def _work(client: redis.Redis, worker: str, chance: random.Random, jobs: list[Job], over: threading.Event) -> None:
    """Claim, be busy, ack, until it is over."""
    asker = Asker(worker)
    while not over.is_set():
        answer = asker.read(client.execute_command(*asker.command()))
        if isinstance(answer, claims.Unjudged):
            asker.fits |= answer.needs.keys()
        elif isinstance(answer, claims.Claimed):
            began = claims.read_record(str(client.hget(keys.claims(worker), answer.tag))).claimed_at
            time.sleep(chance.uniform(0, JOB_S))
            jobs.append(Job(node_of(worker), answer.queue, began, server.now(client)))
            claims.ack(client, worker, answer.tag)
        elif isinstance(answer, claims.Idle):
            time.sleep(chance.uniform(0, JOB_S / 4))


if __name__ == "__main__":
    print(text(run()))
