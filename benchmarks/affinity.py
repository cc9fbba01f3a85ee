"""Model swaps of one device under two interleaved models: `python -m benchmarks.affinity`.

    model_swaps           a steady load; baseline: the same without affinity (a bound of 0)
    model_swaps_optimum   fewest swaps that any order has which keeps the bound
    model_swaps_overload  all jobs at once, far more than the bound allows to wait; baseline likewise

A claimer on a real Redis with real scripts; jobs are pauses. Times are a hundredth of life: jobs of 1 s count 10 ms and
the bound of 60 s counts 0.6 s.
"""

from __future__ import annotations

import json
import statistics
import time
import uuid
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import redis

from benchmarks import claim_cost
from benchmarks.asking import Asker
from benchmarks.rows import Rows, row, text
from gpu_mesh.domain.claim import Rules
from gpu_mesh.store import claims, leases

TURNS = 5
#: Jobs, half of each model, in turns.
JOBS = 200
#: Seconds here for a second of life.
SCALE = 0.01
#: A job, in s of life.
JOB_S = 1.0
#: Jobs that wait when the device begins; then one comes for each that ends.
BACKLOG = 30
QUEUE = "ai-batch"
MODELS = ("a", "b")


def run(turns: int = TURNS) -> Rows:
    """Medians of so many turns of each kind."""
    bound = Rules().affinity_s
    found: dict[tuple[str, float], list[int]] = {}
    with claim_cost.server() as client:
        for _ in range(turns):
            for load, backlog in (("steady", BACKLOG), ("overload", JOBS)):
                for affinity in (bound, 0.0):
                    swaps = _swaps(client, arrivals(backlog), affinity * SCALE)
                    found.setdefault((load, affinity), []).append(swaps)
    median = {key: float(statistics.median(values)) for key, values in found.items()}
    return {
        "model_swaps": row(median["steady", bound], "swaps", median["steady", 0.0]),
        "model_swaps_optimum": row(fewest_swaps(arrivals(BACKLOG), JOB_S, bound), "swaps"),
        "model_swaps_overload": row(median["overload", bound], "swaps", median["overload", 0.0]),
        "model_swaps_overload_optimum": row(fewest_swaps(arrivals(JOBS), JOB_S, bound), "swaps"),
    }


def arrivals(backlog: int) -> list[float]:
    """When each job comes, s of life."""
    return [max(0, i + 1 - backlog) * JOB_S for i in range(JOBS)]


def fewest_swaps(come: Sequence[float], job_s: float, bound_s: float) -> int:
    """Fewest swaps of an order that never idles while a job waits and, once the oldest waited `bound_s`, takes it.

    Jobs alternate between two models and take `job_s` each; `come` is when each comes, ascending, s.
    """
    lines = [range(model, len(come), 2) for model in (0, 1)]
    starts, end = [], 0.0
    for at in come:
        starts.append(max(at, end))
        end = starts[-1] + job_s

    @cache
    def rest(done: int, of_first: int, loaded: int) -> int:
        if done == len(come):
            return 0
        counts, now = (of_first, done - of_first), starts[done]
        heads = [line[n] for line, n in zip(lines, counts, strict=True) if n < len(line) and come[line[n]] <= now]
        oldest = min(heads)
        free = heads if now - come[oldest] < bound_s else [oldest]
        return min((loaded not in (2, i % 2)) + rest(done + 1, of_first + (i % 2 == 0), i % 2) for i in free)

    return rest(0, 0, 2)


def _swaps(client: redis.Redis, come: Sequence[float], affinity_s: float) -> int:
    """Swaps of a device that claims until all jobs are done."""
    client.flushall()
    leases.renew(client, claim_cost.WORKER, 3600.0, anew=True)
    claims.load(client)
    asker = Asker(claim_cost.WORKER, rules=Rules(affinity_s=affinity_s))
    ran: list[str] = []
    began, sent = time.monotonic(), 0
    free_at = began
    while len(ran) < len(come):
        now = (time.monotonic() - began) / SCALE
        while sent < len(come) and come[sent] <= now:
            needs = json.dumps({"memory_gb": 1, "model": MODELS[sent % 2]})
            claim_cost.publish_one(client, QUEUE, needs, str(uuid.uuid4()))
            sent += 1
        reply = asker.read(client.execute_command(*asker.command()))
        if isinstance(reply, claims.Unjudged):
            asker.fits |= reply.needs.keys()
            asker.models |= {number: json.loads(needs)["model"] for number, needs in reply.needs.items()}
        elif isinstance(reply, claims.Claimed):
            asker.loaded = asker.models[reply.needs]
            ran.append(str(asker.loaded))
            claims.ack(client, claim_cost.WORKER, reply.tag)
            # What the claim took is part of the job: the device must keep up with the load.
            free_at += JOB_S * SCALE
            time.sleep(max(0.0, free_at - time.monotonic()))
        elif isinstance(reply, claims.Idle):
            time.sleep(JOB_S * SCALE / 10)
            free_at = time.monotonic()
    return sum(one != other for one, other in pairwise(ran))


if __name__ == "__main__":
    print(text(run()))
