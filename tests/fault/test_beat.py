"""Two beats in one mesh, and what happens to them (SPEC F3; DESIGN §9 "beat dies; two beats run")."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from bare_workers import BareWorker, KillableRedis
from redis_servers import running
from waiting import wait_for

from gpu_mesh.domain.queues import list_names
from gpu_mesh.store import keys, queues
from workers.gpu import celery_argv

#: As in beat_tasks.py, which also changes the app's configuration.
QUEUE, EVERY_S = "rfa-reminders", 1.0
#: How long nothing may be sent when a leader is gone, s (issue 6 §6).
RESUMES_S = 10.0


class Beats:
    """Two beats on a Redis of their own, whose entry is due each second."""

    def __init__(self, folder: Path, server: KillableRedis) -> None:
        self.server = server
        env = {"GPU_MESH_BROKER_URL": server.url, "GPU_MESH_STATE_DIR": str(folder), "GPU_MESH_INCLUDE": "beat_tasks"}
        self.all = [self._beat(folder, name, env) for name in ("one", "two")]

    def _beat(self, folder: Path, name: str, env: dict[str, str]) -> BareWorker:
        argv = celery_argv(
            "beat", f"--hostname=beat@{name}", "--enable-remote-control", "--pidfile=", "--loglevel=INFO"
        )
        return BareWorker(f"beat@{name}", argv, {**env, "NODE_NAME": name}, folder / f"{name}.log")

    def leader(self) -> BareWorker:
        """The one that leads."""

        def found() -> list[BareWorker]:
            with self.server.client() as client:
                held = str(client.get(keys.BEAT)).partition("|")[0]
            return [beat for beat in self.all if beat.name == held]

        return wait_for(found, "a beat to lead")[0]

    def dues(self) -> list[float]:
        """When the entry was due, for each message of it."""
        with self.server.client() as client:
            raws = [raw for name in list_names(QUEUE) for raw in client.lrange(name, 0, -1)]
        return sorted(queues.headers_of(raw)["beat_due"] for raw in raws)

    def await_more(self, count: int, timeout_s: float = RESUMES_S + 10) -> None:
        """So many more are sent, each once, each at a time of its own in the same beat."""
        before = len(self.dues())
        wait_for(lambda: len(self.dues()) >= before + count, f"{count} more", timeout_s)
        self.check()

    def check(self) -> None:
        dues = self.dues()
        for earlier, later in pairwise(dues):
            steps = (later - earlier) / EVERY_S
            assert round(steps) >= 1, (earlier, later)
            assert steps == pytest.approx(round(steps), abs=0.001), (earlier, later)


@pytest.fixture(scope="module")
def beats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beats]:
    folder = tmp_path_factory.mktemp("beats")
    with running(KillableRedis(folder / "redis", "maxmemory 64mb")) as server:
        found = Beats(folder, server)
        try:
            for beat in found.all:
                beat.start(wait=False)
            found.await_more(2, 60)
            wait_for(lambda: all("leads" in beat.log.read_text() for beat in found.all), "both to know who leads", 60)
            yield found
        finally:
            for beat in found.all:
                beat.close()


def test_two_send_nothing_twice(beats: Beats):
    """Each second, once."""
    before = beats.dues()
    beats.await_more(4)
    since = beats.dues()[len(before) - 1 :]
    assert since[-1] - since[0] == pytest.approx((len(since) - 1) * EVERY_S, abs=0.001)


def test_the_leader_is_killed_and_the_other_follows(beats: Beats):
    dead, last = beats.leader(), beats.dues()[-1]
    dead.kill()
    beats.await_more(3)
    assert beats.leader() is not dead
    assert next(due for due in beats.dues() if due > last + EVERY_S / 2) < last + RESUMES_S
    dead.start(wait=False)
    words = dead.log.read_text().count("stands by")
    wait_for(lambda: dead.log.read_text().count("stands by") > words, "the dead one to stand by", 60)
    beats.await_more(1)


def test_the_leader_is_frozen_and_wakes_up(beats: Beats):
    """By then another leads: it sends nothing of what became due meanwhile."""
    frozen = beats.leader()
    frozen.send(signal.SIGSTOP)
    try:
        wait_for(lambda: beats.leader() is not frozen, "another to lead", RESUMES_S)
        beats.await_more(3)
    finally:
        words = frozen.log.read_text().count("stands by")
        frozen.send(signal.SIGCONT)
    wait_for(lambda: frozen.log.read_text().count("stands by") > words, "it to see that another leads")
    beats.await_more(2)
    assert beats.leader() is not frozen


@pytest.mark.parametrize("how", ["frozen", "killed"])
def test_redis_is_away(beats: Beats, how: str):
    """Both wait for it, and none ends; what was missed is sent once."""
    pids, last = [beat.pid for beat in beats.all], beats.dues()[-1]
    words = beats.leader().log.read_text().count("beat waits")
    leader = beats.leader()

    def waits() -> bool:
        return leader.log.read_text().count("beat waits") > words

    if how == "frozen":
        with beats.server.frozen():
            wait_for(waits, "the leader to wait for Redis")
    else:
        beats.server.kill()
        wait_for(waits, "the leader to wait for Redis")
        beats.server.start()
    beats.await_more(3)
    assert [beat.pid for beat in beats.all if beat.alive()] == pids
    assert beats.dues()[-1] > last
