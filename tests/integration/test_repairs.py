"""Repairs of engines by the node that is ill (SPEC H4): real commands, and an Ollama that is killed for real."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import runs
from redis_servers import RedisServer, free_port
from waiting import wait_for

from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.errors import InvalidSetting
from gpu_mesh.settings import Settings
from gpu_mesh.store import keys, repairs
from gpu_mesh.store.client import connect
from gpu_mesh.store.repairs import EXPIRED, FAILED, RECOVERED, REFUSED, Order, Repair
from workers.repairs import TAKE_S, Repairs, restart_commands

NODE = "mend"
URL = "http://127.0.0.1:9"
DEVICES = [
    Device(name=name, node=NODE, kind=DeviceKind.FAKE, gpu_type="A40", memory_gb=40.0) for name in ("gpu0", "gpu1")
]
WORKER = DEVICES[0].worker
STUB = Path(__file__).parents[1] / "support" / "ollama_stub.py"


def sh(script: str) -> str:
    """A command that is a shell with a script."""
    return shlex.join(["sh", "-c", script])


class Node:
    """A node's repairs, and the mesh's side of them."""

    def __init__(self, broker: str, command: str | None, **options: Any) -> None:
        answers = options.pop("answers", None)
        options = {"engine_restart_timeout_s": 20.0, "engine_check_timeout_s": 1.0, **options}
        self.settings = Settings(broker_url=broker, node_name=NODE, engine_restart=command, **options)
        self.lines: list[str] = []
        self.repairs = Repairs(self.settings, DEVICES, on_line=lambda _, line: self.lines.append(line), answers=answers)
        self.client = connect(self.settings)

    def order(self, url: str = URL, worker: str = WORKER, attempt: int = 1) -> str:
        return repairs.order(self.client, NODE, worker, url, attempt)

    def outcome(self, order: str) -> Repair:
        """What became of it."""

        def found() -> Repair | None:
            return next((one for one in repairs.history(self.client) if one.order.id == order), None)

        ended = wait_for(found, "the end of a repair", 30)
        assert ended is not None
        return ended


@contextmanager
def node(broker: str, command: str | None, **options: Any) -> Iterator[Node]:
    found = Node(broker, command, **options)
    found.repairs.start()
    try:
        yield found
    finally:
        found.repairs.stop()
        found.client.close()


def never(_: Order) -> bool:
    return False


def exists(path: Path) -> Callable[[Order], bool]:
    return lambda _: path.exists()


class TestServerItself:
    """The command is the server: `ollama serve`, here the stub as a program."""

    def test_killed_hung_and_stopped(self, broker: str) -> None:
        """H4: it is started, started again after a SIGKILL, replaced where it hangs, and ends with the node."""
        port = free_port()
        url, command = f"http://127.0.0.1:{port}", shlex.join([sys.executable, str(STUB), str(port)])
        with node(broker, command) as here:
            seen = []
            for attempt, harm in enumerate((None, signal.SIGKILL, signal.SIGSTOP), 1):
                if harm is not None:
                    os.kill(seen[-1], harm)
                done = here.outcome(here.order(url, attempt=attempt))
                assert (done.outcome, done.exit_code) == (RECOVERED, None), done
                assert "the command is the server and stays" in done.why
                assert done.command == tuple(shlex.split(command))
                assert done.order.attempt == attempt
                assert done.started_at is not None
                assert done.ended_at is not None
                assert done.ended_at > done.started_at
                [pid] = here.repairs.pids()
                assert runs(pid)
                seen.append(pid)
            assert len(set(seen)) == 3
            assert not any(map(runs, seen[:-1]))
            again = here.outcome(here.order(url))
            assert (again.outcome, again.why, again.command) == (RECOVERED, "it answers already", ())
            assert list(here.repairs.pids()) == seen[-1:]
            assert url in here.lines
        assert not runs(seen[-1])


class TestCommand:
    def test_a_service_manager(self, broker: str, tmp_path: Path) -> None:
        """H4: the command ends, and what it started is not the mesh's: it stays when the mesh goes."""
        up, pids = tmp_path / "up", tmp_path / "pids"
        script = f"sleep 60 >/dev/null 2>&1 & echo $! >{pids}; echo restarted; touch {up}; sleep 0.3"
        with node(broker, sh(script), answers=exists(up)) as here:
            done = here.outcome(here.order())
            assert (done.outcome, done.output, done.exit_code) == (RECOVERED, ("restarted",), 0)
        server = int(pids.read_text())
        assert runs(server)
        os.kill(server, signal.SIGKILL)

    def test_it_fails(self, broker: str) -> None:
        """H4: its last words are kept, and no more of them than so many."""
        with node(broker, sh("seq 1 100; echo no such unit >&2; exit 5"), answers=never) as here:
            done = here.outcome(here.order())
        assert (done.outcome, done.why, done.exit_code) == (FAILED, "the command failed: exit code 5", 5)
        assert done.output[-2:] == ("100", "no such unit")
        assert len(done.output) == 20

    def test_it_hangs(self, broker: str, tmp_path: Path) -> None:
        """H4: it is killed at the limit, with what it started."""
        pids = tmp_path / "pids"
        command = sh(f"sleep 100 & echo $! $$ >{pids}; wait")
        with node(broker, command, answers=never, engine_restart_timeout_s=0.3) as here:
            done = here.outcome(here.order())
            assert done.outcome == FAILED
            assert done.why == "it did not answer within 0.3 s; the command, which ran on, was killed"
            assert not here.repairs.pids()
        for pid in map(int, pids.read_text().split()):
            wait_for(lambda pid=pid: not runs(pid), f"the end of {pid}")

    def test_it_ends_well_and_the_engine_stays_down(self, broker: str) -> None:
        with node(broker, "true", answers=never, engine_restart_timeout_s=0.3) as here:
            done = here.outcome(here.order())
        assert (done.outcome, done.exit_code) == (FAILED, 0)
        assert done.why == "it did not answer within 0.3 s; the command ended well"

    def test_two_orders_at_once(self, broker: str, tmp_path: Path) -> None:
        """H4: one at a time, in turn; what answers again is not restarted."""
        up, ran = tmp_path / "up", tmp_path / "ran"
        found = Node(broker, sh(f"echo run >>{ran}; sleep 0.2; touch {up}"), answers=exists(up))
        orders = [found.order(), found.order(attempt=2), found.order(worker=DEVICES[1].worker)]
        assert [one.id for one in repairs.pending(found.client, NODE)] == orders
        found.repairs.start()
        try:
            assert [found.outcome(one).outcome for one in orders] == [RECOVERED] * 3
        finally:
            found.repairs.stop()
        assert ran.read_text() == "run\n"
        assert repairs.pending(found.client, NODE) == []
        assert [one.order.id for one in repairs.history(found.client, 2)] == orders[:0:-1]


class TestRefused:
    def test_without_a_command(self, broker: str) -> None:
        with node(broker, "gpu1=true", answers=never) as here:
            done = here.outcome(here.order())
            elsewhere = here.outcome(here.order(worker="gpu7@mend"))
        assert (done.outcome, done.command) == (REFUSED, ())
        assert "GPU_MESH_ENGINE_RESTART names no command for gpu0" in done.why
        assert (elsewhere.outcome, elsewhere.why) == (REFUSED, "no device of this node has the worker gpu7@mend")

    def test_what_is_not_here(self, broker: str, tmp_path: Path) -> None:
        """H4: a tunnel or a remote engine is not restarted by the node's command; by one of its own it is."""
        ran, far = tmp_path / "ran", "http://192.0.2.1:11434"
        with node(broker, f"touch {ran}; gpu1=true", answers=never, engine_restart_timeout_s=0.1) as here:
            done = here.outcome(here.order(far))
            assert (done.outcome, ran.exists()) == (REFUSED, False)
            assert here.outcome(here.order(far, DEVICES[1].worker)).outcome == FAILED

    def test_an_old_order(self, broker: str, tmp_path: Path) -> None:
        """H4: whoever ordered it has looked again; a node that was away does not do it late."""
        ran = tmp_path / "ran"
        found = Node(broker, f"touch {ran}", answers=never)
        fresh = found.order()
        told = json.loads(found.client.lpop(keys.orders(NODE)))
        found.client.lpush(keys.orders(NODE), json.dumps({**told, "ordered_at": told["ordered_at"] - 61}))
        assert repairs.pending(found.client, NODE) == []
        found.repairs.start()
        assert found.outcome(fresh).outcome == EXPIRED
        found.repairs.stop()
        assert not ran.exists()

    def test_a_stop_does_not_wait_for_an_order(self, broker: str) -> None:
        found = Node(broker, "true", answers=never)
        found.repairs.start()
        wait_for(lambda: any(one["cmd"] == "blmove" for one in found.client.client_list()), "the wait for an order")
        began = time.monotonic()
        found.repairs.stop()
        assert time.monotonic() - began < TAKE_S / 2
        found.client.close()

    def test_what_is_no_order(self, broker: str, tmp_path: Path) -> None:
        """H4: a command in an order is none of ours; rubbish stops nothing."""
        ran = tmp_path / "ran"
        with node(broker, "true", answers=never, engine_restart_timeout_s=0.1) as here:
            for rubbish in ("{", "[]", '{"id": 1}', "\udc80"):
                here.client.lpush(keys.orders(NODE), rubbish)
            order = here.order()
            told = {**json.loads(here.client.lindex(keys.orders(NODE), 0) or "{}"), "command": ["touch", str(ran)]}
            here.client.lpush(keys.orders(NODE), json.dumps(told))
            assert here.outcome(order).command == ("true",)
        assert not ran.exists()

    @pytest.mark.parametrize(
        ("command", "says"), [("gpu7=true", "the devices of this node are gpu0, gpu1"), ("no-such-one x", "no such")]
    )
    def test_at_the_start(self, command: str, says: str) -> None:
        """H4: a command for nobody, or that cannot be run, is found before it is needed."""
        with pytest.raises(InvalidSetting, match=f"GPU_MESH_ENGINE_RESTART.*{says}"):
            restart_commands(Settings(engine_restart=command), DEVICES)


class TestInterrupted:
    def test_the_node_stops_during_a_repair(self, broker: str, tmp_path: Path) -> None:
        """H4: what runs is ended, and the attempt is on record."""
        pid = tmp_path / "pid"
        with node(broker, sh(f"echo $$ >{pid}; exec sleep 100"), answers=never) as here:
            order = here.order()
            running = wait_for(lambda: pid.exists() and pid.read_text().strip(), "the command")
            assert [one.id for one in repairs.pending(here.client, NODE)] == [order]
        with connect(here.settings) as client:
            [done] = repairs.history(client)
        assert (done.outcome, done.why) == (FAILED, "the node was stopped")
        assert not psutil.pid_exists(int(running)) or not runs(int(running))

    def test_redis_comes_late_and_goes(self, tmp_path: Path) -> None:
        """H4: orders are heard as soon as it is there; an outcome waits for it."""
        redis, gate = RedisServer(tmp_path / "redis", "maxmemory 64mb"), tmp_path / "up"

        def answers(_: Order) -> bool:
            if gate.exists() and not gate.read_text():
                redis.stop()
                gate.write_text("Redis is gone")
            return gate.exists()

        found = Node(redis.url, f"touch {gate}", answers=answers)
        found.repairs.start()
        try:
            redis.start()
            order = wait_for(lambda: found.order(), "an order")
            wait_for(lambda: gate.exists() and gate.read_text(), "the repair")
            redis.start()
            assert found.outcome(order).outcome == RECOVERED
            assert repairs.pending(found.client, NODE) == []
        finally:
            found.repairs.stop()
            redis.stop()

    def test_the_node_was_killed_during_a_repair(self, broker: str) -> None:
        """H4: its next run says so, and the order waits no more."""
        found = Node(broker, "true", answers=never)
        order = found.order()
        taken = repairs.take(found.client, NODE, 1)
        assert taken is not None
        assert [one.id for one in repairs.pending(found.client, NODE)] == [order]
        found.repairs.start()
        assert found.outcome(order).outcome == FAILED
        found.repairs.stop()
        assert repairs.pending(found.client, NODE) == []
