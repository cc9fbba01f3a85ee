"""Server time of claim.lua and publish.lua, µs: `python -m benchmarks.claim_cost` (DESIGN §10).

    claim_us_N               a claim with N messages waiting: five queues, five needs, three of which the device meets
    claim_us_misfits_10000   a claim with 10 000 messages ahead of the one that fits, all of two needs
    claim_us_misfits_kinds   likewise, 1 000 messages, each with needs of its own
    publish_us_idle_1000     a publish while 1 000 workers are idle
    empty_script_us          a script that does nothing: what to scale the others by

A Redis of its own. Figures are medians of SAMPLES means of what Redis's slow log says.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import redis

from benchmarks.asking import Asker
from benchmarks.rows import Rows, row, text
from gpu_mesh.domain.queues import GPU_QUEUES
from gpu_mesh.domain.scoring import Mode
from gpu_mesh.store import claims, leases, ranking
from gpu_mesh.store.embedded import find_server
from gpu_mesh.store.scripts import script, sha

WORKER = "gpu0@node"
NEEDS = [json.dumps({"memory_gb": gb}) for gb in (1, 2, 4, 48, 80)]
#: What the device offers, GB.
MEMORY_GB = 40
BACKLOGS = (10, 10_000, 100_000)
#: Misfits ahead of one message that fits: of two kinds, and each of a kind of its own.
MISFITS, MISFIT_KINDS = 10_000, 1_000
SAMPLES = 5
#: Calls of a sample.
CLAIMS, MISFIT_CLAIMS, IDLE_WORKERS, PUBLISHES = 400, 40, 1000, 200
#: Publishes sent in one go.
BATCH = 500
#: Calls that the slow log keeps: more than a sample makes.
LOGGED = 20_000
#: A claim is a call of the first, and now and then one of the second too.
CLAIM = ("claim", "look")


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


def publish_one(client: redis.Redis, queue: str, needs: str, tag: str) -> None:
    """A message as the transport publishes it; into a pipeline where `client` is one."""
    arguments = [f"{queue}:6", envelope(queue, needs, tag), "normal", needs, tag, tag, "normal"]
    script(client, "publish")(args=arguments, client=client)


def publish(client: redis.Redis, count: int, kinds: Sequence[str] = NEEDS) -> None:
    """`count` messages over all queues and kinds of needs."""
    for start in range(0, count, BATCH):
        pipe = client.pipeline(transaction=False)
        for i in range(start, min(start + BATCH, count)):
            publish_one(pipe, GPU_QUEUES[i % 5], kinds[i // 5 % len(kinds)], str(uuid.uuid4()))
        pipe.execute()


def served_us(client: redis.Redis, names: Sequence[str], calls: Callable[[], None]) -> float:
    """Server time of all calls of some scripts that `calls` makes, µs."""
    shas = [sha(name) for name in names]
    client.config_set("slowlog-max-len", LOGGED)
    client.slowlog_reset()
    client.config_set("slowlog-log-slower-than", 0)
    calls()
    client.config_set("slowlog-log-slower-than", -1)
    entries = client.slowlog_get(LOGGED)
    assert len(entries) < LOGGED
    called = [(str(entry["command"]).split(" "), float(entry["duration"])) for entry in entries]
    return sum(took for words, took in called if len(words) > 1 and words[1] in shas)


class Claimer:
    """Claims as a worker's does: judges needs by MEMORY_GB when asked to."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._asker = Asker(WORKER)
        leases.renew(client, WORKER, 3600.0, anew=True)
        claims.load(client)

    @property
    def fits(self) -> set[str]:
        """Numbers of the needs it fits."""
        return self._asker.fits

    @property
    def misfits(self) -> set[str]:
        """And of those it does not."""
        return self._asker.misfits

    def ask(self) -> claims.ClaimReply:
        """One claim."""
        reply = self._asker.read(self._client.execute_command(*self._asker.command()))
        if isinstance(reply, claims.Unjudged):
            for number, needs in reply.needs.items():
                fits = json.loads(needs)["memory_gb"] <= MEMORY_GB
                (self._asker.fits if fits else self._asker.misfits).add(number)
        return reply

    def take(self) -> None:
        """Claim until there is one, and let it go."""
        while not isinstance(reply := self.ask(), claims.Claimed):
            assert not isinstance(reply, claims.Refused | claims.Idle), reply
        claims.ack(self._client, WORKER, reply.tag)

    def exhaust(self) -> None:
        """Claim until there is nothing for it, and all is judged."""
        while not isinstance(reply := self.ask(), claims.Idle):
            if isinstance(reply, claims.Claimed):
                claims.ack(self._client, WORKER, reply.tag)


def claim_us(client: redis.Redis, backlog: int) -> float:
    """A claim with about that many messages waiting."""
    client.flushall()
    publish(client, backlog)
    claimer = Claimer(client)
    step = max(1, min(backlog // 5, CLAIMS))

    def some() -> None:
        for _ in range(step):
            claimer.take()

    def many() -> None:
        for _ in range(CLAIMS // step):
            some()
            # Only what fits was taken.
            publish(client, step, NEEDS[:3])

    some()
    return statistics.median(served_us(client, CLAIM, many) / (CLAIMS // step * step) for _ in range(SAMPLES))


def misfits_us(client: redis.Redis, count: int, kinds: Sequence[str]) -> float:
    """A claim with `count` misfits ahead of the one message that fits."""
    client.flushall()
    publish(client, count, kinds)
    claimer = Claimer(client)
    claimer.exhaust()

    def one_by_one() -> None:
        for i in range(MISFIT_CLAIMS):
            publish_one(client, GPU_QUEUES[i % 5], NEEDS[0], str(uuid.uuid4()))
            claimer.take()

    one_by_one()
    return statistics.median(served_us(client, CLAIM, one_by_one) / MISFIT_CLAIMS for _ in range(SAMPLES))


def publish_us(client: redis.Redis) -> float:
    """A publish while workers are idle: each claimed, found nothing and waits to be woken."""
    client.flushall()
    publish(client, len(NEEDS) * 5)
    judge = Claimer(client)
    judge.exhaust()
    idle = [Asker(f"gpu{i}@node{i // 8}") for i in range(IDLE_WORKERS)]
    for i, asker in enumerate(idle):
        asker.fits, asker.misfits = judge.fits, judge.misfits
        leases.renew(client, asker.worker, 3600.0, anew=True)
        for needs in asker.fits:
            ranking.rank(client, asker.worker, needs, {mode.value: i / IDLE_WORKERS for mode in Mode})
        reply: claims.ClaimReply = claims.Look("")
        while isinstance(reply, claims.Look):
            reply = asker.read(client.execute_command(*asker.command()))
        assert isinstance(reply, claims.Idle), reply
    count = PUBLISHES // SAMPLES
    return statistics.median(
        served_us(client, ["publish"], lambda: publish(client, count, NEEDS[:3])) / count for _ in range(SAMPLES)
    )


def empty_us(client: redis.Redis) -> float:
    """A script that does nothing."""
    empty = client.script_load("return 1")

    def calls() -> None:
        for _ in range(CLAIMS):
            client.evalsha(empty, 0)

    client.config_resetstat()
    calls()
    return float(client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"])


def run(backlogs: Sequence[int] = BACKLOGS) -> Rows:
    """All of them."""
    two, many = NEEDS[3:], [json.dumps({"memory_gb": 48 + i / 100}) for i in range(MISFIT_KINDS)]
    with server() as client:
        rows = {"empty_script_us": row(empty_us(client), "µs")}
        rows |= {f"claim_us_{backlog}": row(claim_us(client, backlog), "µs") for backlog in backlogs}
        rows[f"claim_us_misfits_{MISFITS}"] = row(misfits_us(client, MISFITS, two), "µs")
        rows["claim_us_misfits_kinds"] = row(misfits_us(client, MISFIT_KINDS, many), "µs")
        rows[f"publish_us_idle_{IDLE_WORKERS}"] = row(publish_us(client), "µs")
    return rows


if __name__ == "__main__":
    print(text(run()))
