"""The supervisor over real processes: nothing stays dead, nothing stays behind (SPEC F1, F3; DESIGN §6)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import wait_for

from gpu_mesh.domain.backoff import Backoff
from gpu_mesh.errors import BrokerUnavailable, InvalidValue
from workers.child import GROUP_GONE_S
from workers.events import Action, Event
from workers.lifeline import Lifeline
from workers.output import LineFeed
from workers.process import EX_CONFIG, Process, ProcessSpec
from workers.stop_signals import ECHO_S
from workers.supervisor import TICK_S, Supervisor

#: How long anything here may take to happen, s.
DEADLINE_S = 10.0

#: A child that dies is missed at most this long, s.
NOTICED_S = 0.3

SLEEP = "import signal; signal.pause()"

#: Ignores SIGTERM, and says so.
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); signal.pause()"

#: Starts a grandchild that no parent-death signal reaches, which says its pid, and stays.
PARENT = """
import os, signal
if os.fork() == 0: print(os.getpid())
signal.pause()
"""

#: Its grandchild leaves the process group, keeps the output's pipe open, and never reaps a process of the group.
PARENT_OF_STRANGER = """
import os, signal
if os.fork() == 0 and os.fork() != 0: os.setsid(); print(os.getpid())
signal.pause()
"""

#: The same, with a grandchild that is told of its parent's death by the kernel, as those of Celery's pool are.
POOL = PARENT.replace("== 0: ", "== 0: import ctypes; ctypes.CDLL(None).prctl(1, signal.SIGKILL); ")

#: Says which signals reach it; SIGTERM ends it.
LISTENER = """
import signal
def hear(number, frame):
    print(signal.Signals(number).name)
    if number == signal.SIGTERM: raise SystemExit
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(number, hear)
print("listening")
while True: signal.pause()
"""

#: A supervisor in a process of its own: children c0, c1, … run the code given as arguments.
HOST = """
import os, signal, sys
from workers.process import ProcessSpec
from workers.supervisor import Supervisor
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
def argv(code): return [sys.executable, "-I", "-S", "-u", "-c", code]
specs = [ProcessSpec(name=f"c{i}", argv=argv(code), stop_timeout_s=60) for i, code in enumerate(sys.argv[1:])]
def tell(line): os.write(1, (line + "\\n").encode())  # whole: two threads tell
def on_line(name, line): tell(f"{name}| {line}")
def on_event(event): tell(f"{event.name} {event.action} {event.pid}")
sys.exit(Supervisor(specs, on_line=on_line, on_event=on_event).run())
"""


def spec(name: str, code: str = SLEEP, **options: Any) -> ProcessSpec:
    argv = [sys.executable, "-I", "-S", "-u", "-c", code]
    return ProcessSpec(**{"name": name, "argv": argv, "stop_timeout_s": DEADLINE_S, **options})


def alive(pid: int) -> bool:
    """Whether the process runs. A zombie does not: it only waits for somebody to reap it."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait(condition: Callable[[], object], what: str) -> None:
    wait_for(condition, what, DEADLINE_S)


def wait_gone(*pids: int) -> None:
    wait(lambda: not any(alive(pid) for pid in pids), f"the end of {pids}")


class House:
    """A supervisor that runs in a thread, and all it told."""

    def __init__(self, specs: list[ProcessSpec], **options: Any) -> None:
        self.events: list[Event] = []
        #: `name| line` and `name action`, as they came.
        self.story: list[str] = []
        self.code: int | None = None
        self.error: Exception | None = None
        self.supervisor = Supervisor(specs, on_line=self._on_line, on_event=self._on_event, **options)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.code = self.supervisor.run()
        except Exception as error:  # noqa: BLE001  # for the test to look at
            self.error = error

    def _on_line(self, name: str, line: str) -> None:
        self.story.append(f"{name}| {line}")

    def _on_event(self, event: Event) -> None:
        self.events.append(event)
        self.story.append(f"{event.name} {event.action}")

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), f"the supervisor did not end: {self.story}"

    def stop(self, *, at_once: bool = False) -> None:
        self.supervisor.request_stop(at_once=at_once)
        self.join()

    def lines(self, name: str) -> list[str]:
        return [entry.removeprefix(f"{name}| ") for entry in self.story if entry.startswith(f"{name}| ")]

    def line(self, name: str, index: int = 0) -> str:
        """That line of the child's output, once it came."""
        wait(lambda: len(self.lines(name)) > index, f"line {index} of {name} in {self.story}")
        return self.lines(name)[index]

    def event(self, name: str, action: Action, count: int = 1) -> Event:
        """The event of that number, once it came."""

        def seen() -> list[Event]:
            return [event for event in self.events if (event.name, event.action) == (name, action)]

        wait(lambda: len(seen()) >= count, f"{count} × {name} {action} in {self.story}")
        return seen()[count - 1]

    def pid(self, name: str) -> int:
        return self.supervisor.pids()[name]


@contextmanager
def house(*specs: ProcessSpec, **options: Any) -> Iterator[House]:
    running = House(list(specs), **{"backoff": Backoff(first_s=0.05), **options})
    running.start()
    try:
        yield running
    finally:
        running.stop(at_once=True)


class Host:
    """A supervisor in a process of its own, that gets real signals."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    def log(self) -> list[str]:
        return self._log.read_text().splitlines()

    def wait(self, start: str) -> str:
        """What follows in the first line that starts so, once it came."""
        wait(lambda: any(line.startswith(start) for line in self.log()), f"{start!r} in {self._log.read_text()}")
        return next(line.removeprefix(start) for line in self.log() if line.startswith(start))

    def join(self) -> int:
        return self.process.wait(DEADLINE_S)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Callable[..., Host]]:
    """Start one whose children run the given code."""
    hosts: list[Host] = []

    def start(*codes: str) -> Host:
        log = tmp_path / "log"
        with log.open("wb") as out:
            # A session of its own, so that its process group is what a terminal's Ctrl-C reaches.
            process = subprocess.Popen([sys.executable, "-c", HOST, *codes], stdout=out, start_new_session=True)
        hosts.append(Host(process, log))
        return hosts[-1]

    yield start
    for running in hosts:
        if running.process.poll() is None:
            running.process.kill()
            running.join()


# order


def test_stages_start_upwards_and_stop_downwards() -> None:
    """SPEC A5: one command starts and stops all; Redis is the first to come and the last to go."""
    specs = [spec("beat", stage=2), spec("redis", stage=0), spec("gpu0", stage=1), spec("gpu1", stage=1)]
    with house(*specs) as running:
        running.event("beat", Action.STARTED)
        assert set(running.supervisor.pids()) == {"redis", "gpu0", "gpu1", "beat"}
        running.stop()
    assert running.story[:4] == ["redis started", "gpu0 started", "gpu1 started", "beat started"]
    at = running.story.index
    assert at("beat stopped") < min(at("gpu0 stopping"), at("gpu1 stopping"))
    assert max(at("gpu0 stopped"), at("gpu1 stopped")) < at("redis stopping")
    assert (running.code, running.supervisor.pids()) == (0, {})


def test_what_comes_before_a_stop_finds_it_running() -> None:
    """A node says goodbye to a Redis that still hears it; a goodbye that fails keeps nobody from stopping."""
    found: list[set[str]] = []

    def goodbye() -> None:
        found.append(set(running.supervisor.pids()))
        raise RuntimeError("nobody listens")

    with house(spec("redis", before_stop=goodbye), spec("gpu0", stage=1)) as running:
        running.event("gpu0", Action.STARTED)
        running.stop()
    assert found == [{"redis"}]
    assert (running.code, running.supervisor.pids()) == (0, {})


def test_next_stage_waits_until_the_one_before_is_ready() -> None:
    told = threading.Event()

    def ready() -> None:
        assert told.wait(DEADLINE_S)

    with house(spec("redis", PARENT, ready=ready), spec("gpu0", stage=1)) as running:
        running.line("redis")
        assert set(running.supervisor.pids()) == {"redis"}
        told.set()
        running.event("gpu0", Action.STARTED)


def test_failed_ready_check_stops_all_and_is_raised() -> None:
    def ready() -> None:
        raise BrokerUnavailable("no answer")

    running = House([spec("redis", ready=ready), spec("gpu0", stage=1)])
    running.start()
    running.join()
    assert isinstance(running.error, BrokerUnavailable)
    assert running.story == ["redis started", "redis stopping", "redis stopped"]


def test_stop_does_not_wait_for_a_ready_check_that_hangs() -> None:
    told = threading.Event()

    def ready() -> None:
        told.wait(DEADLINE_S)

    with house(spec("redis", ready=ready), spec("gpu0", stage=1)) as running:
        running.event("redis", Action.STARTED)
        running.stop()
        assert not told.is_set()
        told.set()
    assert "gpu0 started" not in running.story


def test_stop_before_run_starts_nothing() -> None:
    running = House([spec("gpu0")])
    running.supervisor.request_stop()
    running.start()
    running.join()
    assert (running.code, running.story) == (0, [])


# restart


def test_killed_child_is_restarted_and_its_group_is_gone() -> None:
    """DESIGN §6: a supervisor that sees its worker die kills what is left of its process group."""
    with house(spec("gpu0", PARENT)) as running:
        grandchild, first = int(running.line("gpu0")), running.pid("gpu0")
        os.kill(first, signal.SIGKILL)
        died = running.event("gpu0", Action.DIED)
        assert (died.pid, died.exit_code, died.reason) == (first, -signal.SIGKILL, "killed by SIGKILL")
        assert running.event("gpu0", Action.STARTED, 2).pid != first
        assert not alive(grandchild)


@pytest.mark.parametrize("tick_s", [TICK_S, DEADLINE_S])
def test_death_is_told_at_once(tick_s: float) -> None:
    """DESIGN §9: a dead process is replaced within 2 s; noticing takes the least of it."""
    with house(spec("gpu0"), tick_s=tick_s) as running:
        running.event("gpu0", Action.STARTED)
        killed_at = time.monotonic()
        os.kill(running.pid("gpu0"), signal.SIGKILL)
        running.event("gpu0", Action.DIED)
        assert time.monotonic() - killed_at < NOTICED_S


def test_death_is_seen_where_a_stranger_holds_the_output() -> None:
    """Neither does the output end, nor the process group: a zombie, which nobody reaps, stays of it."""
    with house(spec("gpu0", PARENT_OF_STRANGER), tick_s=DEADLINE_S) as running:
        strangers = [int(running.line("gpu0"))]
        try:
            killed_at = time.monotonic()
            os.kill(running.pid("gpu0"), signal.SIGKILL)
            running.event("gpu0", Action.STARTED, 2)
            assert time.monotonic() - killed_at < GROUP_GONE_S
            strangers.append(int(running.line("gpu0", 1)))
        finally:
            for stranger in strangers:
                os.kill(stranger, signal.SIGKILL)


def test_delays_grow_up_to_the_longest() -> None:
    """DESIGN §9: no restart loop."""
    backoff = Backoff(first_s=0.02, longest_s=0.1)
    with house(spec("gpu0", "raise SystemExit(3)"), backoff=backoff, chance=lambda: 1.0) as running:
        delays = [running.event("gpu0", Action.RESTARTING, n).delay_s for n in range(1, 6)]
        died = running.event("gpu0", Action.DIED)
    assert delays == [0.02, 0.04, 0.08, 0.1, 0.1]
    assert (died.exit_code, died.reason) == (3, "exit code 3")


def test_healthy_run_resets_the_backoff() -> None:
    backoff = Backoff(first_s=0.02, healthy_after_s=0.0)
    with house(spec("gpu0", "raise SystemExit(3)"), backoff=backoff, chance=lambda: 1.0) as running:
        assert running.event("gpu0", Action.RESTARTING, 3).delay_s == 0.02


def test_missing_program_is_told_and_tried_again() -> None:
    with house(spec("gpu0", argv=["/no/such/program"]), spec("gpu1"), chance=lambda: 1.0) as running:
        assert "'/no/such/program'" in running.event("gpu0", Action.UNSTARTABLE).reason
        assert running.event("gpu0", Action.RESTARTING, 2).delay_s == 0.1
        assert set(running.supervisor.pids()) == {"gpu1"}


def test_one_shot_is_not_restarted() -> None:
    with house(spec("once", "print('done')", restart=False), spec("gpu0")) as running:
        running.event("once", Action.DIED)
        os.kill(running.pid("gpu0"), signal.SIGKILL)
        running.event("gpu0", Action.STARTED, 2)
        assert "once restarting" not in running.story


def test_fatal_exit_code_stops_everything_in_order() -> None:
    bad = spec("gpu0", f"raise SystemExit({EX_CONFIG})", stage=1, fatal_exit_codes=frozenset({EX_CONFIG}))
    running = House([spec("redis"), bad])
    running.start()
    running.join()
    assert running.code == EX_CONFIG
    assert running.story == ["redis started", "gpu0 started", "gpu0 died", "redis stopping", "redis stopped"]


# coming and going


def test_add_and_remove_while_running() -> None:
    """SPEC N3: capacity grows without restarting anything."""
    with house(spec("gpu0")) as running:
        running.event("gpu0", Action.STARTED)
        running.supervisor.add(spec("gpu1"))
        running.event("gpu1", Action.STARTED)
        running.supervisor.remove("gpu1")
        running.event("gpu1", Action.STOPPED)
        running.supervisor.add(spec("gpu2"))
        running.event("gpu2", Action.STARTED)
        assert set(running.supervisor.pids()) == {"gpu0", "gpu2"}
        assert "gpu0 stopping" not in running.story
        # Forgotten: the name is free again.
        running.supervisor.add(spec("gpu1"))
        running.event("gpu1", Action.STARTED, 2)


def test_names_are_checked() -> None:
    with pytest.raises(InvalidValue, match="'gpu0': is the name of another process"):
        House([spec("gpu0"), spec("gpu0")])
    with pytest.raises(InvalidValue, match="'gpu7': no such process; there are: gpu0"):
        House([spec("gpu0")]).supervisor.remove("gpu7")


# stop


def test_child_that_does_not_stop_in_time_is_killed() -> None:
    with house(spec("gpu0", DEAF, stop_timeout_s=0.1)) as running:
        running.line("gpu0")
        running.stop()
    assert [e.action for e in running.events] == [Action.STARTED, Action.STOPPING, Action.KILLED, Action.STOPPED]
    assert running.events[2].reason == "did not stop within 0.1 s"
    assert running.events[3].exit_code == -signal.SIGKILL
    assert running.code == 0


def test_polite_stop_leaves_no_grandchild() -> None:
    with house(spec("gpu0", PARENT)) as running:
        grandchild = int(running.line("gpu0"))
        running.stop()
        assert not alive(grandchild)


def test_stop_signal_of_the_spec_is_sent() -> None:
    with house(spec("gpu0", LISTENER, stop_signal=signal.SIGINT, stop_timeout_s=0.2)) as running:
        running.line("gpu0")
        running.stop()
    assert running.lines("gpu0") == ["listening", "SIGINT"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_stops_politely_and_reaches_the_supervisor_alone(host: Callable[..., Host], number: int) -> None:
    """A Ctrl-C, or a terminal that closes, signals the whole process group: children hear only of the stop."""
    running = host(LISTENER)
    running.wait("c0| listening")
    os.killpg(running.process.pid, number)
    assert running.join() == 0
    assert [line for line in running.log() if "|" in line] == ["c0| listening", "c0| SIGTERM"]
    assert running.log()[-1].startswith("c0 stopped")


def test_second_signal_stops_at_once(host: Callable[..., Host]) -> None:
    running = host(DEAF)
    running.wait("c0| deaf")
    running.process.send_signal(signal.SIGTERM)
    pid = int(running.wait("c0 stopping "))
    first_at = time.monotonic()
    wait(lambda: time.monotonic() > first_at + ECHO_S, "the time of an echo")
    running.process.send_signal(signal.SIGINT)
    assert running.join() == 0
    assert not alive(pid)
    running.wait("c0 killed")


def test_killed_supervisor_leaves_nobody(host: Callable[..., Host]) -> None:
    """SPEC P7: an orphan would still hold its GPU when the next worker starts."""
    running = host(DEAF, PARENT, POOL)
    orphans = [int(running.wait(f"c{i} started ")) for i in range(3)]
    orphans += [int(running.wait("c1| ")), int(running.wait("c2| "))]
    orphans += [child.pid for child in psutil.Process(running.process.pid).children(recursive=True)]
    running.process.kill()
    running.join()
    wait_gone(*orphans)


def test_killed_watcher_is_replaced(host: Callable[..., Host]) -> None:
    running = host(PARENT)
    first, grandchild = int(running.wait("c0 started ")), int(running.wait("c0| "))
    (watcher,) = [child for child in psutil.Process(running.process.pid).children() if child.pid != first]
    watcher.kill()
    os.kill(first, signal.SIGKILL)
    wait_gone(first, grandchild)
    wait(lambda: len([line for line in running.log() if line.startswith("c0| ")]) == 2, "the grandchild's successor")
    grandchild = int(running.log()[-1].removeprefix("c0| "))
    running.process.kill()
    running.join()
    wait_gone(grandchild)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc what the watcher ignores")
def test_watcher_outlives_the_end_of_a_whole_service(host: Callable[..., Host]) -> None:
    """systemd signals every process of a service: who cleans up must be the last."""
    running = host(PARENT)
    child, grandchild = int(running.wait("c0 started ")), int(running.wait("c0| "))
    (watcher,) = [process for process in psutil.Process(running.process.pid).children() if process.pid != child]

    def ignored() -> int:
        status = Path(f"/proc/{watcher.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("SigIgn"))[7:], 16)

    wait(lambda: ignored() >> (signal.SIGTERM - 1) & 1, "the watcher to be ready")
    watcher.terminate()
    running.process.kill()
    running.join()
    wait_gone(child, grandchild, watcher.pid)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the parent-death signal is Linux's")
def test_kernel_kills_children_where_the_watcher_cannot(host: Callable[..., Host]) -> None:
    running = host(DEAF)
    pid = int(running.wait("c0 started "))
    # Still starting, it would die of the closed pipe.
    running.wait("c0| deaf")
    (watcher,) = [child for child in psutil.Process(running.process.pid).children() if child.pid != pid]
    watcher.kill()
    running.process.kill()
    running.join()
    wait_gone(pid)


# output, cost


def test_output_comes_whole_in_order_and_before_the_death() -> None:
    code = """
import os, sys
for n in range(20_000): os.write(n % 2 + 1, b"%d\\n" % n)
os.write(1, b"last words")
os.kill(os.getpid(), 9)
"""
    with house(spec("gpu0", code), backoff=Backoff(first_s=60, longest_s=60)) as running:
        running.event("gpu0", Action.RESTARTING)
        expected = [f"gpu0| {n}" for n in range(20_000)]
        story = list(running.story)
        # Told by another thread than the lines: a process may be quick to speak.
        story.remove("gpu0 started")
        assert story == [*expected, "gpu0| last words", "gpu0 died", "gpu0 restarting"]


def test_last_words_are_waited_for_where_they_are_taken_slowly() -> None:
    story: list[str] = []
    slow = threading.Event()

    def on_line(name: str, line: str) -> None:
        slow.wait(0.005)
        story.append(line)

    with Lifeline() as lifeline, LineFeed(on_line, capacity=1) as feed:
        process = Process.start(spec("gpu0", "for n in range(20): print(n)"), lifeline, feed, on_death=lambda: None)
        wait(process.has_died, "the end of the child")
        assert process.reap() == 0
        # But for one in hand and one that waits.
        assert len(story) >= 18
    assert story == [str(n) for n in range(20)]


def test_event_waits_for_the_lines_before_it() -> None:
    shown = threading.Event()
    seen: list[bool] = []

    def on_line(name: str, line: str) -> None:
        threading.Event().wait(0.1)
        shown.set()

    def on_event(event: Event) -> None:
        if event.action is Action.DIED:
            seen.append(shown.is_set())
            supervisor.request_stop()

    supervisor = Supervisor([spec("gpu0", "print('last words')")], on_line=on_line, on_event=on_event)
    supervisor.run()
    assert seen == [True]


def test_an_idle_supervisor_costs_nothing(host: Callable[..., Host]) -> None:
    """SPEC H9: less than 1 % of a CPU."""
    running = host(SLEEP, SLEEP, SLEEP)
    running.wait("c2 started")
    process = psutil.Process(running.process.pid)

    def cost_of_a_second() -> float:
        before, since = process.cpu_times(), time.monotonic()
        wait(lambda: time.monotonic() > since + 1.0, "a second of idling")
        after = process.cpu_times()
        return (after.user + after.system) - (before.user + before.system)

    # The first ones may still be its start, on a busy machine.
    assert min(cost_of_a_second() for _ in range(4)) <= 0.02
