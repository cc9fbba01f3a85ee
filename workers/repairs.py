"""Repairs of this node's engines, in a thread of its supervisor (SPEC H4): ordered through Redis, run as configured.

An order names an engine that does not answer. What runs is the command of GPU_MESH_ENGINE_RESTART and nothing else, one
at a time. A command that still runs when the engine answers is the server itself: it stays, and ends with the mesh.
"""

from __future__ import annotations

import logging
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from gpu_mesh.domain import commands
from gpu_mesh.domain.device import Device
from gpu_mesh.engines import discovery, engines_for
from gpu_mesh.errors import InvalidSetting, MeshError
from gpu_mesh.settings import Settings, env_name
from gpu_mesh.store import repairs, server
from gpu_mesh.store.client import connect, mapped_errors
from gpu_mesh.store.repairs import EXPIRED, FAILED, RECOVERED, REFUSED, VALID_S, Order, Repair
from workers.command import Command
from workers.events import describe_exit
from workers.lifeline import Lifeline
from workers.output import LineFeed, OnLine

__all__ = ["Repairs", "engine_answers", "restart_commands"]

logger = logging.getLogger(__name__)

#: How long it waits for an order at a time, s, and before it tries again while Redis is away.
TAKE_S, RETRY_S = 5, 1.0
#: Added to that for Redis's answer, s.
ANSWER_S = 3.0
#: Between two looks whether the engine answers, s.
LOOK_S = 0.2
#: How long a command may go on after the engine answers without being taken for the engine, s.
SETTLE_S = 1.0
#: Longest that the end of the thread is waited for, s: a server has a while to stop.
STOP_S = 20.0
#: Under which its output is shown.
NAME = "engine"

#: Whether the engine of an order answers now.
Answers = Callable[[Order], bool]


def restart_commands(settings: Settings, devices: Sequence[Device]) -> dict[str, tuple[str, ...]]:
    """The commands of GPU_MESH_ENGINE_RESTART. Raises InvalidSetting for a device or a program that is not here."""
    found = dict(commands.parse(settings.engine_restart)) if settings.engine_restart else {}
    setting, names = env_name("engine_restart"), [device.name for device in devices]
    for device, argv in found.items():
        if device != commands.ANY_DEVICE and device not in names:
            raise InvalidSetting(setting, device, f"the devices of this node are {', '.join(names)}")
        if shutil.which(argv[0]) is None:
            raise InvalidSetting(setting, argv[0], "no such program here, or it may not be run: give its whole path")
    return found


def engine_answers(settings: Settings, devices: Sequence[Device]) -> Answers:
    """As the health checks judge it: all that it is asked for a report."""

    def answers(order: Order) -> bool:
        device = next((one for one in devices if one.worker == order.worker), None)
        if device is not None:
            for engine in engines_for(device, settings):
                if engine.url == order.engine_url:
                    return engine.check().reachable
        kinds = tuple(discovery.USUAL_PORTS)
        return discovery.identify(order.engine_url, kinds, timeout_s=settings.engine_check_timeout_s) is not None

    return answers


class Repairs:
    """Carries out the orders of this node until `stop`. `on_line` gets what commands say; `on_recovered` is called when
    an engine is back, that was not."""

    def __init__(
        self,
        settings: Settings,
        devices: Sequence[Device],
        *,
        on_line: OnLine,
        on_recovered: Callable[[], object] = lambda: None,
        answers: Answers | None = None,
    ) -> None:
        self._settings = settings
        self._devices = {device.worker: device for device in devices}
        self._commands = restart_commands(settings, devices)
        self._answers = answers or engine_answers(settings, devices)
        self._on_line = on_line
        self._on_recovered = on_recovered
        #: Servers that were started, by the device they are for, as in the setting.
        self._servers: dict[str, Command] = {}
        self._running: Command | None = None
        self._lifeline = Lifeline()
        self._feed: LineFeed | None = None
        self._unrecorded: list[Repair] = []
        self._client: Any = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="repairs", daemon=True)

    def start(self) -> None:
        """Begin to listen for orders."""
        self._thread.start()

    def stop(self) -> None:
        """End what runs, servers too."""
        self._stopping.set()
        if self._client is not None:
            self._client.close()  # its wait for an order ends with it
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def pids(self) -> Collection[int]:
        """Of what runs: they are no orphans of a job."""
        return [one.pid for one in (*self._servers.values(), self._running) if one is not None]

    def _run(self) -> None:
        # The kernel ends a command with the thread that started it: this one lives as long as the servers should.
        with ExitStack() as stack:
            try:
                self._listen(stack)
            finally:
                for command in self._servers.values():
                    command.stop()

    def _listen(self, stack: ExitStack) -> None:
        inherited = False
        while not self._stopping.is_set():
            try:
                with mapped_errors(self._settings):
                    # Here, where it may fail: an embedded Redis has no address before it runs.
                    client = self._client = self._client or connect(
                        self._settings, timeout_s=TAKE_S + ANSWER_S, retries=0
                    )
                    if not inherited:
                        self._inherit(client)
                        inherited = True
                    self._record(client)
                    order = self._take(client)
                    if order is not None:
                        self._prepare(stack)
                        self._unrecorded.append(self._carry_out(client, order))
                        self._record(client)
                self._bury()
            except MeshError as exc:
                # An order may have been given to us whose answer was lost.
                inherited = False
                logger.debug("no orders: %s", exc, extra={"action": "repair"})
                self._stopping.wait(RETRY_S)
            except Exception:
                inherited = False
                logger.exception("no orders", extra={"action": "repair"})
                self._stopping.wait(RETRY_S)

    def _take(self, client: Any) -> Order | None:
        order = repairs.take(client, self._settings.node_name, TAKE_S)
        # Taken while the stop began: who runs next records it as not done.
        return None if self._stopping.is_set() else order

    def _inherit(self, client: Any) -> None:
        known = {repair.order.id for repair in self._unrecorded}
        for order in repairs.taken(client, self._settings.node_name):
            if order.id not in known:
                why = "not ended: the node ended meanwhile, or lost Redis"
                self._unrecorded.append(Repair(order=order, outcome=FAILED, why=why, ended_at=server.now(client)))

    def _prepare(self, stack: ExitStack) -> None:
        """What costs a thread and a process is begun by the first order."""
        if self._feed is None:
            self._feed = stack.enter_context(LineFeed(self._on_line))
            stack.enter_context(self._lifeline)

    def _record(self, client: Any) -> None:
        while self._unrecorded:
            repair = self._unrecorded[0]
            repairs.record(client, repair)
            self._unrecorded.pop(0)
            if repair.outcome == RECOVERED:
                self._on_recovered()

    def _bury(self) -> None:
        """Servers that ended by themselves: the next check finds out."""
        for slot, command in list(self._servers.items()):
            if (code := command.exit_code()) is not None:
                del self._servers[slot]
                told = shlex.join(command.argv), describe_exit(code)
                logger.warning("%s ended: %s", *told, extra={"action": "repair"})

    def _carry_out(self, client: Any, order: Order) -> Repair:
        """Repair, and say what became of it. Raises BrokerUnavailable before anything was done."""
        now = server.now(client)
        begun = Repair(order=order, outcome=REFUSED, why="", started_at=None, ended_at=now)
        if now - order.ordered_at > VALID_S:
            return replace(begun, outcome=EXPIRED, why=f"taken {now - order.ordered_at:.0f} s after it was ordered")
        argv, slot, refusal = self._command_for(order)
        if refusal is not None:
            logger.warning("%s is not repaired: %s", order.engine_url, refusal, extra={"action": "repair"})
            return replace(begun, why=refusal)
        if self._answers(order):
            return replace(begun, outcome=RECOVERED, why="it answers already")
        began = time.monotonic()
        logger.warning(
            "%s of %s does not answer, attempt %d: %s",
            *(order.engine_url, order.worker, order.attempt, shlex.join(argv)),
            extra={"action": "repair"},
        )
        done = self._restart(order, argv, slot)
        took_s = time.monotonic() - began
        level = logging.INFO if done.outcome == RECOVERED else logging.ERROR
        logger.log(level, "%s %s: %s", order.engine_url, done.outcome, done.why, extra={"action": "repair"})
        return replace(done, started_at=now, ended_at=now + took_s)

    def _command_for(self, order: Order) -> tuple[tuple[str, ...], str, str | None]:
        """The command, whose it is in the setting, and why it may not be run, if it may not."""
        device = self._devices.get(order.worker)
        if device is None:
            return (), "", f"no device of this node has the worker {order.worker}"
        own = device.name in self._commands
        argv = commands.command_for(device.name, self._commands)
        name = env_name("engine_restart")
        if argv is None:
            return (), "", f"{name} names no command for {device.name}: set it, or restart the engine by hand"
        if not own and not discovery.is_here(order.engine_url):
            return (), "", f"{order.engine_url} is not on this machine, and {name} names no command for {device.name}"
        return argv, device.name if own else commands.ANY_DEVICE, None

    def _restart(self, order: Order, argv: tuple[str, ...], slot: str) -> Repair:
        """Run the command and wait for the engine's answer."""
        if (before := self._servers.pop(slot, None)) is not None:
            before.stop()
        assert self._feed is not None
        feed, made = self._feed, Repair(order=order, outcome=FAILED, why="", command=argv)
        try:
            command = self._running = Command(argv, self._lifeline, lambda line: feed.put(NAME, line))
        except (OSError, ValueError) as exc:
            return replace(made, why=f"it cannot be run: {exc}")
        try:
            outcome, why = self._await_answer(order, command)
        finally:
            self._running = None
        if outcome == RECOVERED and command.exit_code() is None:
            self._servers[slot] = command
        else:
            command.kill()
        return replace(made, outcome=outcome, why=why, exit_code=command.exit_code(), output=command.output())

    def _stays(self, command: Command) -> bool:
        """Whether it is the server: a service manager's command ends soon after its engine answers."""
        end = time.monotonic() + SETTLE_S
        while command.exit_code() is None and time.monotonic() < end and not self._stopping.wait(LOOK_S / 4):
            pass
        return command.exit_code() is None

    def _await_answer(self, order: Order, command: Command) -> tuple[str, str]:
        limit_s = self._settings.engine_restart_timeout_s
        began = time.monotonic()
        while True:
            # In this order: what it did before it ended has its effect by the time that it is asked.
            code = command.exit_code()
            if self._answers(order):
                took_s = time.monotonic() - began
                runs = "; the command is the server and stays" if self._stays(command) else ""
                return RECOVERED, f"it answers after {took_s:.1f} s{runs}"
            if code:
                return FAILED, f"the command failed: {describe_exit(code)}"
            if time.monotonic() - began > limit_s:
                still = "the command, which ran on, was killed" if code is None else "the command ended well"
                return FAILED, f"it did not answer within {limit_s:g} s; {still}"
            if self._stopping.wait(LOOK_S):
                return FAILED, "the node was stopped"
