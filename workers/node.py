"""One node of the mesh: its registration, and the processes `gpu-mesh worker` and `gpu-mesh up` run on it."""

from __future__ import annotations

import logging
import os
import platform
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from gpu_mesh import __version__
from gpu_mesh.devices import detect
from gpu_mesh.domain.device import Device
from gpu_mesh.domain.queues import CONTROL_QUEUE
from gpu_mesh.errors import BrokerUnavailable, NodeNameTaken
from gpu_mesh.settings import Settings
from gpu_mesh.store import nodes
from gpu_mesh.store.client import connect, mapped_errors
from workers.gpu import QUIET_HEARTBEAT_S, celery_argv, device_argv, environment, worker_argv
from workers.process import EX_CONFIG, STOP_TIMEOUT_S, ProcessSpec

__all__ = [
    "FLOWER_LISTEN",
    "Registrar",
    "api_spec",
    "beat_spec",
    "control_specs",
    "describe",
    "flower_spec",
    "lead_specs",
    "own_devices",
    "worker_specs",
]

logger = logging.getLogger(__name__)

#: Stages of a start, in order; a stop goes the other way.
BROKER_STAGE, WORKER_STAGE, BEAT_STAGE = 0, 1, 2
#: Added to a worker's own limit before the supervisor kills it, s.
STOP_GRACE_S = 5.0
#: Starting again would not mend a refused setting: it stops the node instead.
FATAL = frozenset({EX_CONFIG})
#: Flower can stop workers and shows what is in tasks: it is for this machine alone.
FLOWER_LISTEN = "127.0.0.1"
#: How Flower is told who may use it, and that nothing may be changed.
FLOWER_LOGINS, FLOWER_READ_ONLY = ("FLOWER_BASIC_AUTH", "FLOWER_AUTH"), "FLOWER_READ_ONLY"
#: What needs no GPU must not take any of its memory.
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


def own_devices(settings: Settings) -> tuple[Device, ...]:
    """This node's devices, as `GPU_MESH_DEVICES` says. Raises InvalidSetting when what it asks for is not here."""
    return detect(
        settings.devices,
        node=settings.node_name,
        gpu_enabled=settings.gpu_enabled,
        labels=settings.labels,
        models={name: listed.split("|") for name, listed in settings.models.items()},
        margin_gb=settings.memory_margin_gb,
        powers=settings.gpu_powers,
        costs=settings.gpu_costs,
    )


def describe(settings: Settings, devices: Sequence[Device]) -> nodes.Node:
    """What this node registers."""
    return nodes.Node(
        name=settings.node_name,
        role=settings.node_role,
        host=platform.node(),
        version=__version__,
        labels=dict(settings.labels),
        devices=tuple(devices),
    )


def worker_specs(settings: Settings, devices: Sequence[Device]) -> list[ProcessSpec]:
    """One Celery worker per device."""
    return [
        _worker_spec(settings, device.name, device_argv(device, log_level=settings.log_level), environment(device))
        for device in devices
    ]


def lead_specs(settings: Settings) -> list[ProcessSpec]:
    """What a lead runs besides its devices: the control worker, the CPU queues' worker, and beat."""
    return [*control_specs(settings), beat_spec(settings)]


def control_specs(settings: Settings) -> list[ProcessSpec]:
    """The control worker and, where there are CPU queues, their worker."""
    node = settings.node_name
    argv_of = partial(worker_argv, log_level=settings.log_level, heartbeat_s=QUIET_HEARTBEAT_S)
    argv = argv_of(f"control@{node}", [CONTROL_QUEUE], concurrency=1)
    specs = [_worker_spec(settings, "control", argv, NO_GPU)]
    if settings.cpu_queues:
        argv = argv_of(f"cpu@{node}", settings.cpu_queues, concurrency=settings.cpu_concurrency)
        specs.append(_worker_spec(settings, "cpu", argv, NO_GPU))
    return specs


def beat_spec(settings: Settings) -> ProcessSpec:
    """Beat, which answers pings as `beat@NODE`, also while another one leads."""
    argv = celery_argv(
        "beat",
        f"--hostname=beat@{settings.node_name}",
        "--enable-remote-control",
        "--pidfile=",
        f"--loglevel={settings.log_level}",
    )
    return ProcessSpec(name="beat", argv=argv, stage=BEAT_STAGE, stop_timeout_s=STOP_GRACE_S, fatal_exit_codes=FATAL)


def api_spec() -> ProcessSpec:
    """The REST API, for a mesh that checked that it may be served."""
    argv = (sys.executable, "-m", "gpu_mesh", "api", "--checked")
    return ProcessSpec(
        name="api", argv=argv, env=NO_GPU, stage=BEAT_STAGE, stop_timeout_s=STOP_TIMEOUT_S, fatal_exit_codes=FATAL
    )


def flower_spec(settings: Settings, env: Mapping[str, str] = os.environ) -> ProcessSpec:
    """Flower. Where nobody has to log in it only shows, unless `env` says otherwise: any web page could use it."""
    watches = not any(env.get(name) for name in (*FLOWER_LOGINS, FLOWER_READ_ONLY))
    argv = celery_argv(
        "flower",
        f"--address={FLOWER_LISTEN}",
        f"--port={settings.flower_port}",
        # The mesh's workers send events by themselves: they need not be told every five seconds.
        "--enable_events=false",
        # What goes well is not told.
        "--logging=error",
        *(["--read_only=true"] if watches else []),
    )
    return ProcessSpec(
        name="flower", argv=argv, env=NO_GPU, stage=BEAT_STAGE, stop_timeout_s=STOP_TIMEOUT_S, fatal_exit_codes=FATAL
    )


def _worker_spec(settings: Settings, name: str, argv: Sequence[str], env: Mapping[str, str]) -> ProcessSpec:
    return ProcessSpec(
        name=name,
        argv=argv,
        env=env,
        stage=WORKER_STAGE,
        stop_timeout_s=settings.stop_timeout_s + STOP_GRACE_S,
        fatal_exit_codes=FATAL,
    )


class Registrar:
    """Keeps a node's registration fresh from a thread, until `stop`.

    A broker that is away is tried again; a name that another node took meanwhile is logged and tried again, for
    the other one may leave.
    """

    def __init__(self, settings: Settings, node: nodes.Node) -> None:
        self._settings = settings
        self._node = node
        self._instance = nodes.instance_id()
        #: Kept: a connection costs more than what is said over it.
        self._client: Any = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="registrar", daemon=True)

    def start(self) -> None:
        """Register once, then keep renewing. Raises NodeNameTaken, BrokerUnavailable or BrokerRefused at once."""
        self.renew()
        self._thread.start()

    def renew(self) -> None:
        """Register or renew, once."""
        with mapped_errors(self._settings):
            self._client = self._client or connect(self._settings)
            nodes.register(self._client, self._node, instance=self._instance, ttl_s=self._settings.node_ttl_s)

    def stop(self) -> None:
        """Stop renewing and say goodbye, if the broker can hear it. Once: a second call does nothing."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=STOP_GRACE_S)
        if self._client is not None:
            self._client.close()
        try:
            with mapped_errors(self._settings), connect(self._settings, timeout_s=1.0) as client:
                nodes.leave(client, self._node.name, instance=self._instance)
        except BrokerUnavailable as exc:
            logger.info("left without a goodbye: %s", exc, extra={"action": "leave"})

    def _run(self) -> None:
        while not self._stopping.wait(self._settings.node_refresh_s):
            try:
                self.renew()
            except (BrokerUnavailable, NodeNameTaken) as exc:
                logger.warning("registration not renewed: %s", exc, extra={"action": "register"})
            except Exception:
                logger.exception("registration not renewed", extra={"action": "register"})
