"""Server time of claim.lua and publish.lua, µs: `python -m benchmarks.claim_cost` (DESIGN §10).

A Redis of its own; five queues with messages of five different needs, three of which the device meets.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from gpu_mesh.domain.claim import Rules
from gpu_mesh.domain.queues import GPU_QUEUES
from gpu_mesh.domain.scoring import Mode
from gpu_mesh.store import claims
from gpu_mesh.store.embedded import find_server
from gpu_mesh.store.scripts import script

WORKER = "gpu0@node"
NEEDS = [json.dumps({"memory_gb": gb}) for gb in (1, 2, 4, 48, 80)]
#: Numbers of the needs the device meets: the store counts from 1.
FITS, MISFITS = frozenset("123"), frozenset("45")
BACKLOGS = (10, 10_000, 100_000)
CLAIMS, IDLE_WORKERS, PUBLISHES = 2000, 1000, 500


@contextmanager
def server() -> Iterator[redis.Redis]:
    """A Redis on a socket of its own, with an append-only file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "redis.sock"
        options = ["--port", "0", "--unixsocket", str(path), "--dir", folder, "--appendonly", "yes", "--save", ""]
        process = subprocess.Popen([str(find_server().path), *options], stdout=subprocess.DEVNULL)
        try:
            while not path.exists():
                time.sleep(0.01)
            with redis.Redis(unix_socket_path=str(path), decode_responses=True) as client:
                yield client
        finally:
            process.terminate()
            process.wait()


def envelope(queue: str, needs: str, tag: str) -> str:
    """As kombu writes it, about 700 bytes."""
    properties = {"correlation_id": tag, "delivery_info": {"exchange": "", "routing_key": queue}, "delivery_tag": tag}
    headers = {"lang": "py", "task": "t", "id": tag, "mesh": {"priority": 5, "needs": json.loads(needs)}}
    return json.dumps({"body": "x" * 300, "headers": headers, "properties": properties})


def publish(client: redis.Redis, count: int) -> None:
    """`count` messages over all queues and needs."""
    call = script(client, "publish")
    for i in range(count):
        queue, needs, tag = GPU_QUEUES[i % 5], NEEDS[i // 5 % 5], str(uuid.uuid4())
        call(args=[f"{queue}:6", envelope(queue, needs, tag), "normal", needs, tag, tag, "normal"])


def server_us(client: redis.Redis) -> float:
    """Mean of EVALSHA since the statistics were reset."""
    return float(client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"])


def claim_us(client: redis.Redis, backlog: int) -> float:
    """Mean server time of a claim with about that many messages waiting."""
    client.flushall()
    publish(client, backlog)
    claims.renew(client, WORKER, 3600.0, anew=True)
    claims.load(client)
    claimant = claims.Claimant(WORKER, "node", GPU_QUEUES, frozenset(), FITS, MISFITS, frozenset(), FITS)
    arguments = claims.claim_arguments(claimant, Rules())
    client.config_resetstat()
    total, calls = 0.0, 0
    while calls < CLAIMS:
        for _ in range(max(1, min(backlog // 5, CLAIMS))):
            reply = claims.read_reply(client.evalsha(claims.claim_sha(client), 0, *arguments))
            assert isinstance(reply, claims.Claimed), reply
            client.hdel(f"gpumesh:claims:{WORKER}", reply.tag)
            calls += 1
        total += server_us(client) * client.info("commandstats")["cmdstat_evalsha"]["calls"]
        if calls < CLAIMS:
            client.flushall()
            publish(client, backlog)
            claims.renew(client, WORKER, 3600.0, anew=True)
        client.config_resetstat()
    return total / calls


def publish_us(client: redis.Redis) -> float:
    """Mean server time of a publish while workers are idle."""
    client.flushall()
    publish(client, 5)
    for i in range(IDLE_WORKERS):
        for needs in "12345":
            claims.rank(client, f"gpu{i}@node", needs, {mode.value: i / IDLE_WORKERS for mode in Mode})
    client.zadd("gpumesh:idle", {f"gpu{i}@node": i for i in range(IDLE_WORKERS)})
    client.config_resetstat()
    publish(client, PUBLISHES)
    return server_us(client)


def empty_us(client: redis.Redis) -> float:
    """Mean server time of a script that does nothing: what to scale the others by."""
    sha = client.script_load("return 1")
    client.config_resetstat()
    for _ in range(CLAIMS):
        client.evalsha(sha, 0)
    return server_us(client)


def main() -> None:
    """Print name, value and unit."""
    with server() as client:
        rows = [("empty_script_us", empty_us(client), "µs")]
        rows += [(f"claim_us_{backlog}", claim_us(client, backlog), "µs") for backlog in BACKLOGS]
        rows += [(f"publish_us_idle_{IDLE_WORKERS}", publish_us(client), "µs")]
        rows += [("load_1min", os.getloadavg()[0], "processes")]
    for name, value, unit in rows:
        print(f"{name:24} {value:10.1f} {unit}")


if __name__ == "__main__":
    main()
