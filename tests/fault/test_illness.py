"""What the mesh notices, mends and tells, end to end: real workers, beat, a real Ollama-speaking process, a web server
and a mail server that take the alerts (SPEC H1-H7, F1, F4; DESIGN §9). Checks are a second apart here."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from email.header import decode_header, make_header
from pathlib import Path

import psutil
import pytest
import redis
from gpus import Gpus
from ledger_tasks import Ledger
from processes import START_S, gpu_mesh
from receivers import Mailbox, Webhook, mailbox, webhook
from redis_servers import free_port
from waiting import wait_for

from gpu_mesh import app
from gpu_mesh.domain.health import State
from gpu_mesh.settings import settings
from gpu_mesh.store import alerts, health, repairs
from gpu_mesh.store.client import connect

LEAD, OTHER = "lead", "other"
GPU0, GPU1, GPU2 = f"gpu0@{LEAD}", f"gpu1@{LEAD}", f"gpu0@{OTHER}"
STUB = Path(__file__).parents[1] / "support" / "ollama_stub.py"
#: Longest wait for what several checks lead to, s.
CHECKS_S = 30.0


class Program:
    """An Ollama-speaking process of nobody's."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def command(self) -> str:
        return shlex.join([sys.executable, str(STUB), str(self.port)])

    def start(self) -> None:
        self._process = subprocess.Popen(shlex.split(self.command), stdout=subprocess.DEVNULL, start_new_session=True)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@dataclass
class World:
    """A lead with two GPUs, the first with an Ollama; a tunnel to a third one; another node that may vanish."""

    client: redis.Redis
    gpus: Gpus
    ollama: Program
    tunnel: Program
    hook: Webhook
    mail: Mailbox
    ledger: Ledger
    folder: Path
    #: What was seen, with seconds since the last `begin`.
    timeline: list[str] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    def begin(self, what: str) -> None:
        self._began = time.monotonic()
        self.timeline.append(what)

    def state(self, kind: str, name: str) -> State | None:
        found = health.checked(self.client, kind, name)
        return None if found is None else found.health.state

    def becomes(self, kind: str, name: str, *states: State) -> None:
        wait_for(lambda: self.state(kind, name) in states, f"{name} to be {' or '.join(states)}", CHECKS_S)
        self.timeline.append(f"{time.monotonic() - self._began:6.1f} s  {name} is {self.state(kind, name)}")

    def told(self, *words: str) -> str:
        """Title and body of a message that has all these words."""

        def found() -> str | None:
            posts = [f"{post['title']} {post['message']}" for post in self.hook.posts]
            return next((post for post in posts if all(word in post for word in words)), None)

        post = wait_for(found, f"a message of {words}", CHECKS_S)
        assert post is not None
        self.timeline.append(f"{time.monotonic() - self._began:6.1f} s  told: {post.splitlines()[0][:100]}")
        return post

    def hold(self, gate: Path, **options: object) -> str:
        gate.touch()
        return str(app.send_task("ledger.hold", [str(self.ledger.path), str(gate)], **options).id)

    def started(self, task: str, times: int = 1) -> str:
        wait_for(lambda: len(self.ledger.starts(task)) >= times, f"start {times} of {task}", CHECKS_S)
        return str(self.ledger.starts(task)[times - 1].worker)

    def env(self, node: str) -> dict[str, str]:
        return {
            "NODE_NAME": node,
            "GPU_MESH_INCLUDE": "ledger_tasks",
            "GPU_MESH_HEALTH_EVERY_S": "1",
            "GPU_MESH_NODE_REFRESH_S": "0.5",
            "GPU_MESH_NODE_TTL_S": "2",
            "GPU_MESH_LEASE_TTL_S": "3",
        }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, empty_redis: object) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("ill")
    with ExitStack() as stack:
        hook, mail = stack.enter_context(webhook()), stack.enter_context(mailbox())
        gpus, ollama, tunnel = Gpus(folder / "gpus.json"), Program(), Program()
        client = stack.enter_context(connect(settings()))
        found = World(client, gpus, ollama, tunnel, hook, mail, Ledger(folder / "ledger"), folder)
        for program in (ollama, tunnel):
            stack.callback(program.kill)
            program.start()
        env = {
            **found.env(LEAD),
            **gpus.env,
            "NODE_ROLE": "lead",
            "GPU_MESH_ENGINE_URLS": f"gpu0={ollama.url}",
            "GPU_MESH_ENGINE_RESTART": f"gpu0={ollama.command}",
            "GPU_MESH_WATCH_URLS": f"tunnel={tunnel.url}",
            "GPU_MESH_ALERT_URLS": f"{hook.url()} {mail.url}",
        }
        log = folder / "lead.log"
        stack.enter_context(gpu_mesh("worker", "--devices", "nvidia", log=log, ready="beat: Starting", env=env))
        for name in ("gpu0", "gpu1", "control"):
            wait_for(lambda name=name: f"{name}@{LEAD} ready" in log.read_text(), f"{name} in {log}", START_S)
        for subject in ((health.DEVICE, GPU0), (health.DEVICE, GPU1), (health.ENDPOINT, "tunnel")):
            found.becomes(*subject, State.HEALTHY)
        yield found
        print("\n" + "\n".join(found.timeline))  # noqa: T201  # shown with -s


def subjects(mail: Mailbox, name: str) -> list[str]:
    """Of the mails that came and name it."""
    told = (str(make_header(decode_header(one["Subject"]))) for one in mail.mails)
    return [subject for subject in told if name in subject]


def test_an_engine_that_is_killed_is_back_by_itself(world: World) -> None:
    """H2, H4, H5, H6: strikes, WARNING, ERROR, restart by its node, INFO; by web and by mail."""
    world.begin("SIGKILL of Ollama")
    world.ollama.kill()
    world.becomes(health.DEVICE, GPU0, State.DEGRADED)
    world.told("WARNING", GPU0, "is degraded")
    world.becomes(health.DEVICE, GPU0, State.UNHEALTHY)
    message = world.told("ERROR", GPU0, "is unhealthy", world.ollama.url)
    assert "(3 strikes)" in message
    [done] = wait_for(lambda: repairs.history(world.client), "the repair", CHECKS_S) or []
    assert (done.outcome, done.order.worker, done.order.attempt) == (repairs.RECOVERED, GPU0, 1)
    world.becomes(health.DEVICE, GPU0, State.HEALTHY)
    world.told("INFO", GPU0, "recovered", "is healthy")
    mails = wait_for(lambda: subjects(world.mail, GPU0)[2:], "the mails", CHECKS_S)
    assert mails is not None
    assert "INFO" in mails[-1]
    assert len(repairs.history(world.client)) == 1


def test_a_gpu_that_falls_off_the_bus(world: World, tmp_path: Path) -> None:
    """DESIGN §9: unhealthy at once, its work moves, and nothing is restarted for it."""
    before = len(repairs.history(world.client))
    gate = tmp_path / "gate"
    job = world.hold(gate, queue="customer")
    here = world.started(job)
    index, there = (0, GPU1) if here == GPU0 else (1, GPU0)
    world.begin(f"{here} falls off the bus, a job runs there")
    world.gpus.lose(index)
    world.told("ERROR", here, "fell off the bus")
    assert world.started(job, 2) == there
    world.becomes(health.DEVICE, here, State.UNHEALTHY, State.OFFLINE)
    gate.unlink()
    wait_for(lambda: job in world.ledger.ends(), "the job's end")
    world.becomes(health.DEVICE, here, State.OFFLINE)
    assert world.state(health.DEVICE, there) is State.HEALTHY
    assert len(repairs.history(world.client)) == before
    world.gpus.reset(index)
    world.becomes(health.DEVICE, here, State.HEALTHY)
    assert len(world.ledger.starts(job)) == 2


def test_a_machine_that_vanishes(world: World, tmp_path: Path) -> None:
    """F1, H5, H7: its job runs elsewhere, one node alert, and it is back when it is back."""
    env, log, gate = world.env(OTHER), world.folder / "other.log", tmp_path / "gate"
    with gpu_mesh("worker", "--devices", "fake:A40:40", log=log, ready=f"{GPU2} ready", env=env, stop=False) as node:
        world.becomes(health.NODE, OTHER, State.HEALTHY)
        job = world.hold(gate, queue="customer", memory_gb=30)
        assert world.started(job) == GPU2
        world.begin("SIGKILL of everything of another node")
        for process in (psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)):
            process.send_signal(signal.SIGKILL)
    world.told("ERROR", OTHER, "not heard of for")
    world.becomes(health.NODE, OTHER, State.UNHEALTHY, State.OFFLINE)
    world.becomes(health.NODE, OTHER, State.OFFLINE)
    world.told("CRITICAL", OTHER, "not heard of for")
    # Its node's alert tells of the device too.
    assert not [title for title in world.hook.titles if GPU2 in title and "WARNING" not in title]
    with gpu_mesh("worker", "--devices", "fake:A40:40", log=log, ready=f"{GPU2} ready", env=env):
        world.becomes(health.NODE, OTHER, State.HEALTHY)
        assert world.started(job, 2) == GPU2
        gate.unlink()
        wait_for(lambda: job in world.ledger.ends(), "the job's end")
        world.told("INFO", OTHER, "recovered")
    wait_for(lambda: world.state(health.NODE, OTHER) is None, "it to have left", CHECKS_S)


def test_a_tunnel_that_flaps(world: World) -> None:
    """Issue 6: told of once, and degraded until it has stood for a while."""
    world.begin("a tunnel flaps")
    for _ in range(3):
        world.tunnel.kill()
        world.becomes(health.ENDPOINT, "tunnel", State.DEGRADED, State.UNHEALTHY)
        found = health.checked(world.client, health.ENDPOINT, "tunnel")
        assert found is not None
        world.tunnel.start()
        wait_for(lambda: (_passed(world) or 0) > 0, "the tunnel to stand", CHECKS_S)
    world.told("flapping", "tunnel")
    assert world.state(health.ENDPOINT, "tunnel") is State.DEGRADED
    world.becomes(health.ENDPOINT, "tunnel", State.HEALTHY)
    told = [post for post in world.hook.posts if "again and again" in post["message"]]
    assert len(told) == 1


def _passed(world: World) -> int | None:
    found = health.checked(world.client, health.ENDPOINT, "tunnel")
    return None if found is None else found.health.passed


def test_nothing_of_it_is_left(world: World) -> None:
    """Each alert that was raised is over, and was said to be."""
    wait_for(lambda: not alerts.standing(world.client), "the end of all alerts", CHECKS_S)
