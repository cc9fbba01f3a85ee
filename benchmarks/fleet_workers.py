"""The workers of a simulated fleet: each a connection of its own that claims and waits as the transport does."""

from __future__ import annotations

import heapq
import json
import math
import random
import select
import socket
import time
from typing import Any

import redis

from benchmarks.asking import Asker
from benchmarks.claim_cost import MEMORY_GB
from benchmarks.wire import ERROR, Recorder, Reply, drain, replies
from gpu_mesh.domain.holds import PauseScope
from gpu_mesh.domain.scoring import Mode
from gpu_mesh.domain.stats import Outcome
from gpu_mesh.services.claimer import LOOK_AFTER_S
from gpu_mesh.store import claims, keys, leases, ranking

__all__ = ["Fleet"]

#: Longest sleep of the loop, s.
TICK_S = 0.05
#: Lease until the traffic beside renews it, s.
FIRST_LEASE_S = 300.0
#: What a job's end costs beside the claim: a result of about 300 bytes for a day, and Celery's three events.
RESULT = "r" * 300
EVENTS = ("task.received", "task.started", "task.succeeded")


class Worker:
    """One device's worker."""

    __slots__ = ("asker", "buffer", "claims", "connection", "name", "needs", "skip", "task", "wait", "waiting")

    def __init__(self, name: str, port: int, wait: bytes) -> None:
        self.name = name
        self.connection = socket.create_connection(("127.0.0.1", port))
        self.connection.setblocking(False)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()
        self.wait = wait
        # Else a node of eleven devices, of which some always run realtime work, would never run batch work.
        self.asker = Asker(name, pause_scope=PauseScope.GPU)
        #: Its usual claims, by whether it may be idle in Redis's eyes, and how many needs were judged by then.
        self.claims: dict[bool, bytes] = {}
        self.needs = 0
        self.waiting = False
        #: Replies to come that are none to a claim.
        self.skip = 0
        #: Tag of what it runs.
        self.task = ""


class Fleet:
    """All of them, in one event loop. Jobs take `job_s` on average, from half of that to half more, s."""

    def __init__(self, port: int, names: list[str], job_s: float, chance: random.Random) -> None:
        self.latencies_ms: list[float] = []
        self.running = 0
        #: The most that the loop was late by to end a job.
        self.lag_s = 0.0
        #: Claims refused because a lease had ended: Redis does not keep up with the renewals.
        self.refused = 0
        self._job_s, self._chance = job_s, chance
        self._fits: set[str] = set()
        self._recorder = Recorder()
        self._beside = socket.create_connection(("127.0.0.1", port))
        waits = [self._recorder.encode("BRPOP", keys.wake(name), f"{LOOK_AFTER_S:.3f}") for name in names]
        self._workers = [Worker(name, port, wait) for name, wait in zip(names, waits, strict=True)]
        self._poll = select.epoll()
        self._by_fd = {worker.connection.fileno(): worker for worker in self._workers}
        for fd in self._by_fd:
            self._poll.register(fd, select.EPOLLIN)
        #: (when, order, worker): the ends of jobs, and the starts of workers.
        self._due: list[tuple[float, int, Worker]] = []

    def begin(self, client: redis.Redis) -> None:
        """Begin the leases, and judge the needs of what waits: such a burst is no part of the measured."""
        for worker in self._workers:
            leases.renew(self._recorder, worker.name, FIRST_LEASE_S, anew=True)
            self._flush()
        client.ping()
        first = Asker(self._workers[0].name)
        answer: claims.ClaimReply = claims.Look("")
        while isinstance(answer, claims.Look):
            answer = first.read(client.execute_command(*first.command()))
        assert isinstance(answer, claims.Unjudged), answer
        self._judge(answer.needs)

    def start(self, within_s: float) -> None:
        """Have the workers begin to claim, spread over so long."""
        now = time.monotonic()
        for worker in self._workers:
            self._at(now + self._chance.random() * within_s, worker)

    def run(self, seconds: float) -> None:
        """Go on for so long."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            while self._due and self._due[0][0] <= now:
                due, _, worker = heapq.heappop(self._due)
                self.lag_s = max(self.lag_s, now - due)
                if worker.task:
                    self._finish(worker)
                self._ask(worker)
            self._flush()
            pause = self._due[0][0] - now if self._due else TICK_S
            for fd, _ in self._poll.poll(max(0.0, min(pause, TICK_S))):
                worker = self._by_fd[fd]
                worker.buffer += drain(worker.connection)
                for reply in replies(worker.buffer):
                    self._read(worker, reply)

    def close(self) -> None:
        """Close all connections."""
        self._poll.close()
        for worker in self._workers:
            worker.connection.close()
        self._beside.close()

    def _at(self, when: float, worker: Worker) -> None:
        heapq.heappush(self._due, (when, id(worker), worker))

    def _ask(self, worker: Worker) -> None:
        asker = worker.asker
        if worker.needs != len(self._fits):
            asker.fits, worker.needs = self._fits, len(self._fits)
            worker.claims.clear()
        if asker.look is not None:
            command = self._recorder.encode(*asker.command())
        else:
            command = worker.claims.get(asker.idle) or self._recorder.encode(*asker.command())
            worker.claims[asker.idle] = command
        worker.waiting = False
        worker.connection.send(command)

    def _read(self, worker: Worker, reply: Reply) -> None:
        if isinstance(reply, Exception):
            raise reply
        if worker.skip:
            worker.skip -= 1
        elif worker.waiting:
            self._ask(worker)
        else:
            self._answer(worker, worker.asker.read(reply))

    def _answer(self, worker: Worker, answer: claims.ClaimReply) -> None:
        if isinstance(answer, claims.Claimed):
            self._begin(worker, answer)
        elif isinstance(answer, claims.Unjudged):
            self._judge(answer.needs)
            self._ask(worker)
        elif isinstance(answer, claims.Look):
            self._ask(worker)
        else:
            self.refused += isinstance(answer, claims.Refused)
            worker.waiting = True
            worker.connection.send(worker.wait)

    def _judge(self, needs: dict[str, str]) -> None:
        """Every worker judges alike; each is ranked by a score of its own."""
        for number, text in needs.items():
            if number in self._fits:
                continue
            assert json.loads(text)["memory_gb"] <= MEMORY_GB
            self._fits.add(number)
            for worker in self._workers:
                ranking.rank(self._recorder, worker.name, number, {mode.value: self._chance.random() for mode in Mode})
                self._flush()

    def _begin(self, worker: Worker, claimed: claims.Claimed) -> None:
        sent = claimed.tag.partition("-")[0]
        if "." in sent:
            self.latencies_ms.append((time.time() - float(sent)) * 1000)
            share = self._chance.uniform(0.5, 1.5)
        else:
            # What runs from the beginning: what is left at a random moment of a job that was met by chance.
            share = self._chance.random() * math.sqrt(0.25 + 2 * self._chance.random())
        self.running += 1
        worker.task = claimed.tag
        self._at(time.monotonic() + self._job_s * share, worker)

    def _finish(self, worker: Worker) -> None:
        self.running -= 1
        self._recorder.setex(f"celery-task-meta-{worker.task}", 86400, RESULT)
        for event in EVENTS:
            self._recorder.publish(f"/0.celeryev/{event}", RESULT)
        self._flush()
        # Over its own connection: Redis must have it before the next claim.
        ended = claims.Ended(json.dumps(self._entry(worker)), Outcome.SUCCESS, ran_s=0.01)
        claims.ack(self._recorder, worker.name, worker.task, ended=ended)
        worker.skip = self._recorder.kept
        worker.connection.send(self._recorder.take())
        worker.task = ""

    def _entry(self, worker: Worker) -> dict[str, Any]:
        return {"id": worker.task, "name": "t", "queue": "internal", "worker": worker.name, "started_at": time.time()}

    def _flush(self) -> None:
        """Send what was recorded over the connection beside, and look at its answers."""
        if sent := self._recorder.take():
            self._beside.sendall(sent)
        self._beside.setblocking(False)
        answer = drain(self._beside)
        self._beside.setblocking(True)
        if ERROR in answer or answer[:1] == b"-":
            raise RuntimeError(f"Redis refused: {answer[:300]!r}")
