"""Starts processes in order, shows what they print, starts again what dies, and stops them in order.

Forking, reaping and all decisions happen in the thread that calls `Supervisor.run`. That must be a thread
which lives as long as the children should: the kernel kills them when it ends.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from queue import Empty, SimpleQueue

from gpu_mesh.domain.backoff import Backoff
from gpu_mesh.errors import InvalidValue
from workers.child import Child, Context
from workers.events import Action, Event
from workers.lifeline import Lifeline
from workers.output import LineFeed, OnLine
from workers.process import TELLS_OF_DEATH, Process, ProcessSpec
from workers.stop_signals import StopSignals

__all__ = ["OnEvent", "Supervisor"]

logger = logging.getLogger(__name__)

#: Called with each event, in the supervising thread and before it goes on: it must return soon.
OnEvent = Callable[[Event], None]

#: The longest sleep between two looks at the children, in seconds; a death that the system tells of wakes earlier.
TICK_S = 1.0 if TELLS_OF_DEATH else 0.2

#: The shortest sleep, in seconds.
SHORTEST_TICK_S = 0.01

#: How long an event waits for the lines before it to be shown, in seconds.
FLUSH_S = 1.0

#: Level of the log line of an event, INFO where it is not named.
LEVELS = {
    Action.UNSTARTABLE: logging.ERROR,
    Action.DIED: logging.WARNING,
    Action.KILLED: logging.WARNING,
    Action.ABANDONED: logging.ERROR,
}


class Supervisor:
    """Keeps the processes of `specs` running until it is told to stop.

    `on_line(name, line)` gets their output, one call at a time, from another thread; `on_event` what happens to
    them, a death after the last words; `on_look` the pids of those that run, at each look at them. Times come from
    `clock` (seconds, monotonic), jitter from `chance` (a random number in [0, 1]). Raises `InvalidValue` where two
    specs have one name.
    """

    def __init__(
        self,
        specs: Iterable[ProcessSpec],
        *,
        on_line: OnLine,
        on_event: OnEvent | None = None,
        on_look: Callable[[Collection[int]], None] | None = None,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        tick_s: float = TICK_S,
    ) -> None:
        self._on_event = on_event
        self._on_look = on_look
        self._clock = clock
        self._tick_s = tick_s
        self._feed = LineFeed(on_line)
        self._lifeline = Lifeline()
        self._context = Context(
            spawn=self._spawn,
            backoff=backoff or Backoff(),
            clock=clock,
            chance=chance,
            emit=self._emit,
            on_fatal=self._stop_with,
        )
        # Unlike an Event, it can be set by a signal handler that interrupts its own reader.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._lock = threading.Lock()
        self._children: dict[str, Child] = {}
        self._leaving: set[str] = set()
        self._running = False
        self._stopping = False
        self._at_once = False
        self._exit_code = 0
        for spec in specs:
            self.add(spec)

    def run(self) -> int:
        """Start all, stage by stage, and supervise until stopped, also where nothing is left. Call it once.

        In the main thread SIGINT, SIGTERM and SIGHUP stop in order, and a second SIGINT or SIGTERM at once.
        Returns 0, or the fatal exit code of a child. Raises what a spec's `ready` raised, all being stopped.
        """
        with ExitStack() as stack:
            stack.enter_context(StopSignals(self.request_stop))
            stack.enter_context(self._lifeline)
            stack.enter_context(self._feed)
            try:
                self._start_stages()
                while not self._stopping:
                    self._tick()
            finally:
                self._stop_stages()
        return self._exit_code

    def request_stop(self, *, at_once: bool = False) -> None:
        """Have `run` stop everything in order, or with SIGKILL, and return. From any thread or signal handler."""
        self._at_once = self._at_once or at_once
        self._stopping = True
        self._wake.put(None)

    def add(self, spec: ProcessSpec) -> None:
        """Take one more process on; while `run` runs it starts now, whatever its stage. From any thread.

        Raises `InvalidValue` where a process of that name is not gone yet.
        """
        with self._lock:
            if spec.name in self._children:
                raise InvalidValue("name", spec.name, "is the name of another process here: choose another")
            child = self._children[spec.name] = Child(spec, self._context)
            if self._running:
                child.start()
        self._wake.put(None)

    def remove(self, name: str) -> None:
        """Stop one process and forget it, without waiting for its end, which an event tells. From any thread.

        Raises `InvalidValue` where there is none of that name.
        """
        with self._lock:
            if name not in self._children:
                raise InvalidValue("name", name, f"no such process; there are: {', '.join(self._children) or 'none'}")
            self._leaving.add(name)
        self._wake.put(None)

    def pids(self) -> Mapping[str, int]:
        """Process ids of those that run, by name. From any thread."""
        return {child.spec.name: pid for child in self._list() if (pid := child.pid) is not None}

    def _list(self) -> list[Child]:
        with self._lock:
            return list(self._children.values())

    def _start_stages(self) -> None:
        with self._lock:
            self._running = True
            first = list(self._children.values())
        for stage in sorted({child.spec.stage for child in first}):
            if self._stopping:
                return
            children = [child for child in first if child.spec.stage == stage]
            for child in children:
                child.start()
            self._look()
            self._await_ready(children)

    def _await_ready(self, children: Iterable[Child]) -> None:
        waiting = [self._check_ready(child.spec.name, child.spec.ready) for child in children if child.spec.ready]
        while waiting and not self._stopping:
            self._tick()
            done = [check for check in waiting if check.done()]
            for check in done:
                check.result()
            waiting = [check for check in waiting if check not in done]

    def _check_ready(self, name: str, ready: Callable[[], None]) -> Future[None]:
        """Call it in a thread: meanwhile signals are heard and deaths are seen."""
        check: Future[None] = Future()

        def call() -> None:
            try:
                ready()
            except Exception as error:  # noqa: BLE001  # raised again by `result`
                check.set_exception(error)
            else:
                check.set_result(None)
            self._wake.put(None)

        threading.Thread(target=call, name=f"ready check of {name}", daemon=True).start()
        return check

    def _stop_stages(self) -> None:
        self._stopping = True
        with self._lock:
            self._running = False
            children = list(self._children.values())
        for child in children:
            child.due_at = None
        for stage in sorted({child.spec.stage for child in children}, reverse=True):
            leaving = [child for child in children if child.spec.stage == stage]
            for child in leaving:
                self._before_stop(child.spec)
                child.stop()
            while not all(child.is_gone for child in leaving):
                self._tick()

    def _before_stop(self, spec: ProcessSpec) -> None:
        if spec.before_stop is None:
            return
        try:
            spec.before_stop()
        except Exception:
            logger.exception("%s: what comes before its stop failed", spec.name, extra={"action": "stop"})

    def _tick(self) -> None:
        self._sleep()
        self._look()

    def _sleep(self) -> None:
        times = [at - self._clock() for child in self._list() if (at := child.next_at()) is not None]
        timeout = max(SHORTEST_TICK_S, min([self._tick_s, *times]))
        try:
            self._wake.get(timeout=timeout)
            while True:
                self._wake.get_nowait()
        except Empty:
            return

    def _look(self) -> None:
        for child in self._list():
            name = child.spec.name
            if self._at_once:
                child.kill("all was to stop at once")
            elif name in self._leaving:
                child.stop()
            child.look()
            if name in self._leaving and child.is_gone:
                with self._lock:
                    self._leaving.discard(name)
                    del self._children[name]
        if self._on_look is not None:
            self._on_look(self.pids().values())

    def _spawn(self, spec: ProcessSpec) -> Process:
        return Process.start(spec, self._lifeline, self._feed, on_death=lambda: self._wake.put(None))

    def _stop_with(self, code: int) -> None:
        self._exit_code = self._exit_code or code
        self.request_stop()

    def _emit(self, event: Event) -> None:
        if event.exit_code is not None:
            self._feed.flush(FLUSH_S)
        extra = {"action": event.action.value, "child": event.name, "child_pid": event.pid}
        logger.log(LEVELS.get(event.action, logging.INFO), "%s", event, extra=extra)
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:
            logger.exception("event %s was not taken", event, extra={"action": "emit", "child": event.name})
