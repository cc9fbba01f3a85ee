"""What a supervisor does with one child, and how it is told to stop, without any process (SPEC F3)."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from gpu_mesh.domain.backoff import Backoff
from workers.child import ABANDON_S, GROUP_GONE_S, Child, Context
from workers.events import Action, Event, describe_exit
from workers.process import ProcessSpec
from workers.stop_signals import ECHO_S, StopSignals


class FakeProcess:
    """A process that dies when the test says so, and tells what was done to it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.exit_code: int | None = None
        self.group_gone = True
        self.done: list[str] = []

    def has_died(self) -> bool:
        return self.exit_code is not None

    def reap(self) -> int:
        assert self.exit_code is not None
        return self.exit_code

    def send(self, number: int) -> None:
        self.done.append(f"signal {number}")

    def kill_group(self) -> None:
        self.done.append("kill")

    def group_is_gone(self) -> bool:
        return self.group_gone


class World:
    """One child, its fake processes, and a clock that the test moves."""

    def __init__(self, **spec: object) -> None:
        self.now = 100.0
        self.processes: list[FakeProcess] = []
        self.events: list[Event] = []
        self.fatal: list[int] = []
        context = Context(
            spawn=self._spawn,
            backoff=Backoff(first_s=1.0, longest_s=8.0, healthy_after_s=60.0),
            clock=lambda: self.now,
            chance=lambda: 1.0,
            emit=self.events.append,
            on_fatal=self.fatal.append,
        )
        self.child = Child(ProcessSpec(**{"name": "gpu0", "argv": ["x"], "stop_timeout_s": 5.0, **spec}), context)
        self.child.start()
        self.child.look()

    def _spawn(self, spec: ProcessSpec) -> FakeProcess:
        self.processes.append(FakeProcess(pid=len(self.processes) + 1))
        return self.processes[-1]

    def die(self, code: int = 1, *, after_s: float = 0.0) -> None:
        self.now += after_s
        self.processes[-1].exit_code = code
        self.child.look()

    def look_after(self, seconds: float) -> None:
        self.now += seconds
        self.child.look()

    def actions(self) -> list[Action]:
        return [event.action for event in self.events]

    def delays(self) -> list[float | None]:
        return [event.delay_s for event in self.events if event.action is Action.RESTARTING]


def test_restart_waits_its_delay_and_the_delay_grows() -> None:
    world = World()
    world.die()
    world.look_after(0.9)
    assert world.child.pid is None
    world.look_after(0.1)
    assert world.child.pid == 2
    world.die()
    assert world.delays() == [1.0, 2.0]


def test_run_of_a_minute_resets_the_delay() -> None:
    world = World()
    for seconds in (0.0, 59.0, 60.0, 0.0):
        world.die(after_s=seconds)
        world.look_after(8.0)
    assert world.delays() == [1.0, 2.0, 1.0, 2.0]


def test_restart_waits_for_the_rest_of_the_group_but_not_for_ever() -> None:
    """SPEC P7: two generations of a worker must not share a GPU; a process stuck in a driver must not stop the node."""
    world = World()
    world.processes[0].group_gone = False
    world.die()
    world.look_after(1.0)
    assert world.child.pid is None
    assert not world.child.is_gone
    world.look_after(GROUP_GONE_S)
    assert world.child.pid == 2


def test_stop_is_asked_once_then_enforced() -> None:
    world = World()
    world.child.stop()
    world.child.stop()
    world.look_after(4.9)
    assert world.processes[0].done == [f"signal {signal.SIGTERM}"]
    world.look_after(0.1)
    world.look_after(0.1)
    assert world.processes[0].done == [f"signal {signal.SIGTERM}", "kill"]
    world.die(-signal.SIGKILL)
    world.look_after(100.0)
    assert world.actions() == [Action.STARTED, Action.STOPPING, Action.KILLED, Action.STOPPED]
    assert world.child.is_gone


def test_process_that_survives_sigkill_is_left_behind() -> None:
    """SPEC F3: a hung driver holds its process in the kernel; the rest must stop all the same."""
    world = World()
    world.child.kill("all was to stop at once")
    world.look_after(ABANDON_S - 0.1)
    assert not world.child.is_gone
    world.look_after(0.1)
    assert world.child.is_gone
    assert world.actions() == [Action.STARTED, Action.KILLED, Action.ABANDONED]


def test_stop_before_a_restart_prevents_it() -> None:
    world = World()
    world.die()
    world.child.stop()
    world.look_after(100.0)
    assert world.child.is_gone
    assert len(world.processes) == 1


def test_fatal_code_is_reported_unless_it_was_asked_to_stop() -> None:
    world = World(fatal_exit_codes=frozenset({78}))
    world.die(78)
    assert (world.fatal, world.delays()) == ([78], [])
    stopped = World(fatal_exit_codes=frozenset({78}))
    stopped.child.stop()
    stopped.die(78)
    assert stopped.fatal == []


def test_next_look_is_when_something_is_due() -> None:
    world = World()
    assert world.child.next_at() is None
    world.child.stop()
    assert world.child.next_at() == world.now + 5.0
    world.look_after(5.0)
    assert world.child.next_at() == world.now + ABANDON_S
    world.die(-9)
    assert world.child.next_at() is None


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "exit code 0"), (3, "exit code 3"), (-9, "killed by SIGKILL"), (-40, "killed by signal 40")],
)
def test_exits_are_told_in_words(code: int, words: str) -> None:
    assert describe_exit(code) == words


def test_event_is_a_sentence() -> None:
    died = Event(action=Action.DIED, name="gpu0", pid=7, exit_code=-9, reason="killed by SIGKILL")
    assert str(died) == "gpu0 died (pid 7): killed by SIGKILL"
    assert str(Event(action=Action.RESTARTING, name="gpu0", delay_s=0.52)) == "gpu0 restarting in 0.5 s"


class Stops:
    """Records what was asked for, and moves the clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked: list[bool] = []

    def request(self, *, at_once: bool = False) -> None:
        self.asked.append(at_once)

    def send(self, number: int, after_s: float) -> None:
        self.now += after_s
        os.kill(os.getpid(), number)


@pytest.fixture
def hangup() -> Iterator[Callable[[signal.Handlers], None]]:
    """Set what SIGHUP does; how these tests were started themselves (nohup) must not count."""
    before = signal.getsignal(signal.SIGHUP)
    yield lambda handler: signal.signal(signal.SIGHUP, handler)
    signal.signal(signal.SIGHUP, before)


def test_second_signal_means_at_once_but_an_echo_or_a_closed_terminal_does_not(
    hangup: Callable[[signal.Handlers], None],
) -> None:
    hangup(signal.SIG_DFL)
    stops = Stops()
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals(stops.request, clock=lambda: stops.now):
        stops.send(signal.SIGHUP, 1.0)
        stops.send(signal.SIGHUP, 1.0)
        stops.send(signal.SIGTERM, 1.0)
        stops.send(signal.SIGTERM, ECHO_S / 2)
        stops.send(signal.SIGHUP, 1.0)
        assert stops.asked == [False, False, False, False]
        stops.send(signal.SIGINT, 1.0)
        assert stops.asked[4:] == [True]
    assert signal.getsignal(signal.SIGTERM) is before


def test_ignored_hangup_stays_ignored(hangup: Callable[[signal.Handlers], None]) -> None:
    """`nohup gpu-mesh worker` outlives its terminal."""
    hangup(signal.SIG_IGN)
    stops = Stops()
    with StopSignals(stops.request):
        stops.send(signal.SIGHUP, 0.0)
    assert stops.asked == []


def test_no_handlers_outside_the_main_thread() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def enter() -> None:
        with StopSignals(Stops().request):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]
