"""Commands that run a mesh: `up` (everything on one machine), `worker` (this node's devices), `control`, `beat`."""

from __future__ import annotations

import logging
import os
import socket
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

import click
from rich.text import Text

from gpu_mesh.celery import app
from gpu_mesh.cli import interfaces
from gpu_mesh.cli.include import check_include_apart
from gpu_mesh.cli.output import console
from gpu_mesh.domain.device import Device
from gpu_mesh.domain.queues import CONTROL_QUEUE
from gpu_mesh.services.channels import check as check_channels
from gpu_mesh.services.listening import is_loopback
from gpu_mesh.services.looking import FRESH_S
from gpu_mesh.settings import Settings, env_name, mask, settings
from gpu_mesh.store.client import broker_url, check_broker
from gpu_mesh.store.embedded import EmbeddedRedis
from workers.events import Action, Event
from workers.lease import reap_now
from workers.logs import named, to_file
from workers.node import (
    BROKER_STAGE,
    Registrar,
    beat_spec,
    control_specs,
    describe,
    lead_specs,
    own_devices,
    worker_specs,
)
from workers.orphans import Orphans
from workers.process import ProcessSpec
from workers.repairs import Repairs
from workers.supervisor import OnEvent, Supervisor

__all__ = ["beat", "control", "reachable", "up", "worker"]

#: Whose log records `up` and `worker` print.
OUR_PACKAGES = ("gpu_mesh", "workers")
#: Name of the embedded Redis among the processes.
REDIS = "redis"
#: How often Redis may end while it starts, before `up` gives up.
START_DEATHS = 3
#: The task that checks all nodes; when it is sent for what was mended, s: by then reports from before are too old
#: (services/health.FRESH_S); and how long one that nobody ran is of use, s.
CHECK, CHECK_AFTER_S, CHECK_EXPIRES_S = "mesh.health", FRESH_S + 1.0, 30.0
_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta")


_name_option = click.option("--name", "node_name", help="Name of this node, as NODE_NAME.")


def _node_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--devices", help="Devices of this node, as GPU_MESH_DEVICES: `cpu:2`, `fake:RTX 4090:24`."),
        _name_option,
    ):
        command = option(command)
    return command


@click.command()
@_node_options
@click.option("--listen", help="Serve other machines on this address as well: 0.0.0.0 for all.")
@click.option("--flower", is_flag=True, help="Run Flower as well, on loopback: GPU_MESH_FLOWER_PORT.")
def up(devices: str | None, node_name: str | None, listen: str | None, flower: bool) -> None:
    """Run a whole mesh on this machine: Redis (unless GPU_MESH_BROKER_URL names one), a worker per device,
    the control worker, beat and the REST API. Ctrl-C stops it in order, a second one at once."""
    also_flower = "true" if flower else None
    current = _override(
        devices=devices, node_name=node_name, listen=listen, node_role="lead", flower_enabled=also_flower
    )
    with _logs(current):
        check_include_apart(current)
        check_channels(current)
        own = own_devices(current)
        also = interfaces.specs(current)
        if current.broker_url is None:
            _with_embedded(current, own, also)
        else:
            check_broker(current)
            interfaces.check_served(current)
            _supervise(current, own, [], also=also)


def _with_embedded(current: Settings, own: Sequence[Device], also: Sequence[ProcessSpec]) -> None:
    server = EmbeddedRedis(current.state_dir, listen=current.listen)
    server.acquire()
    try:
        server.prepare()
        deaths: list[Event] = []

        def ready() -> None:
            server.wait_ready(alive=lambda: len(deaths) < START_DEATHS)
            interfaces.check_served(current)

        redis = ProcessSpec(name=REDIS, argv=server.command(), stage=BROKER_STAGE, ready=ready)
        if not is_loopback(current.listen):
            joins = server.join_line(reachable(current.listen))
            console.print(f"A second machine joins with:\n  {joins}", markup=False, soft_wrap=True)
        _supervise(current, own, [redis], deaths, also=also)
    finally:
        server.release()


@click.command()
@_node_options
def worker(devices: str | None, node_name: str | None) -> None:
    """Run this node's devices: one worker each, started again when it dies. With NODE_ROLE=lead also the control
    worker and beat."""
    current = _override(devices=devices, node_name=node_name)
    with _logs(current):
        check_include_apart(current)
        if current.node_role == "lead":
            check_channels(current)
        check_broker(current)
        _supervise(current, own_devices(current), [])


@click.command()
@_name_option
def control(node_name: str | None) -> None:
    """Run a lead's control worker and the CPU queues' worker alone, each started again when it dies: for a lead
    whose parts are services of their own."""
    current = _override(node_name=node_name)
    check_channels(current)
    _run_part(current, control_specs(current))


@click.command()
@_name_option
def beat(node_name: str | None) -> None:
    """Run a lead's beat alone, started again when it dies. Several in one mesh, on nodes of different names, stand in
    for each other: one leads, another follows within seconds, nothing is sent twice."""
    current = _override(node_name=node_name)
    _run_part(current, [beat_spec(current)])


def _run_part(current: Settings, specs: Sequence[ProcessSpec]) -> None:
    with _logs(current):
        check_include_apart(current)
        check_broker(current)
        console.print(f"node    {current.node_name}")
        console.print(f"broker  {mask(broker_url(current))}", soft_wrap=True)
        raise click.exceptions.Exit(Supervisor(specs, on_line=_print_line, on_event=_attend(current, None)).run())


def _override(**given: str | None) -> Settings:
    """Settings with what the command line says; in the environment, so that the processes started here agree."""
    os.environ.update({env_name(name): value for name, value in given.items() if value is not None})
    settings.cache_clear()
    return settings()


def _supervise(
    current: Settings,
    devices: Sequence[Device],
    broker: list[ProcessSpec],
    broker_deaths: list[Event] | None = None,
    *,
    also: Sequence[ProcessSpec] = (),
) -> None:
    registrar = Registrar(current, describe(current, devices))
    repairs = Repairs(current, devices, on_line=_print_line, on_recovered=_have_checked)
    specs = [*broker, *worker_specs(current, devices)]
    if current.node_role == "lead":
        specs += lead_specs(current)
    specs += also
    console.print(f"node    {current.node_name} ({current.node_role})")
    console.print(f"broker  {mask(broker_url(current))}", soft_wrap=True)
    for line in interfaces.shown(current, also):
        console.print(line, soft_wrap=True)
    for device in devices:
        console.print(f"device  {device.worker}: {device.gpu_type}, {device.memory_gb:g} GB")
    if not broker:
        registrar.start()
    # Registered before the workers start: stage by stage, after the broker is ready.
    ready = [_with_registration(spec, registrar) if spec in broker else spec for spec in specs]
    orphans = Orphans()
    orphans.adopt()
    on_event = _attend(current, broker_deaths)
    repairs.start()
    try:
        raise click.exceptions.Exit(
            Supervisor(
                ready,
                on_line=_print_line,
                on_event=on_event,
                on_look=lambda pids: orphans.look([*pids, *repairs.pids()]),
            ).run()
        )
    finally:
        repairs.stop()
        registrar.stop()


def _have_checked() -> None:
    """What was mended is to claim again now, not at the next check of beat's."""
    app.send_task(CHECK, queue=CONTROL_QUEUE, countdown=CHECK_AFTER_S, expires=CHECK_EXPIRES_S, ignore_result=True)


def _with_registration(spec: ProcessSpec, registrar: Registrar) -> ProcessSpec:
    def ready() -> None:
        if spec.ready is not None:
            spec.ready()
        registrar.start()

    # While Redis hears it: who left in order is not missed.
    return replace(spec, ready=ready, before_stop=registrar.stop)


def reachable(listen: str) -> str:
    """The address under which another machine may reach this one, when it listens on all of them."""
    if listen not in ("0.0.0.0", "::"):
        return listen
    family, elsewhere = (socket.AF_INET6, "2001:db8::1") if ":" in listen else (socket.AF_INET, "192.0.2.1")
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            # Sends nothing: it only asks the routing table which of our addresses faces outwards.
            probe.connect((elsewhere, 9))
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])


def _print_line(name: str, line: str) -> None:
    if name == REDIS:
        # Python's processes log to the file themselves.
        _tell_of_redis(line)
    if not console.is_terminal:  # nobody sees the colours, which cost as much as the task that the line tells of
        console.file.write(f"{datetime.now():%H:%M:%S} {name:<8} {line}\n")
        console.file.flush()
        return
    colour = _COLOURS[zlib.crc32(name.encode()) % len(_COLOURS)]
    text = Text.assemble((f"{datetime.now():%H:%M:%S} ", "dim"), (f"{name:<8} ", colour), line)
    console.print(text, soft_wrap=True)


def _tell_of_redis(line: str) -> None:
    if (handler := to_file()) is not None:
        record = logging.LogRecord(REDIS, logging.INFO, "", 0, "%s", (line,), None)
        record.__dict__["mesh_process"] = REDIS
        handler.handle(record)


@contextmanager
def _logs(current: Settings) -> Iterator[None]:
    """What our own packages log is printed among the processes' lines, from the level of GPU_MESH_LOG_LEVEL on."""
    handler: logging.Handler = _Lines()
    handler.setFormatter(logging.Formatter("%(message)s"))
    named("supervisor")
    handlers = [handler, *filter(None, [to_file()])]
    loggers = [logging.getLogger(name) for name in OUR_PACKAGES]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(current.log_level)
        for one in handlers:
            logger.addHandler(one)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
            for one in handlers:
                logger.removeHandler(one)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        for line in self.format(record).splitlines():
            _print_line("mesh", line)


def _attend(current: Settings, broker_deaths: list[Event] | None) -> OnEvent:
    """What is to do at an event; the supervisor's log tells of it."""

    def attend(event: Event) -> None:
        if event.name == REDIS:
            if event.action in (Action.DIED, Action.UNSTARTABLE) and broker_deaths is not None:
                broker_deaths.append(event)
        elif event.action in (Action.DIED, Action.KILLED) and event.name not in ("beat", "api", "flower"):
            reap_now(current, f"{event.name}@{current.node_name}")

    return attend
