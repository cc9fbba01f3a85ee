"""What a worker says of its machine, its device and the device's engines: the report (SPEC H1).

{"worker": "gpu0@n", "taken_at": 1700000000.0,            Redis's clock, s; null: it is away
 "system": {"load": 0.4, "memory": 0.6, "disk": 0.5,      shares; the load of 1 min per core
            "disk_free_gb": 12.0, "skew_s": 0.01,         this machine's clock less Redis's
            "error": null},                               what of it could not be had, in words
 "device": {…},                                           a Reading; {"error", "hard"}; null: there is none
 "held_gb": 1.2,                                          held by strangers; null: not known
 "engines": [{"name", "url", "reachable", "ms", "version", "models", "loaded", "error"}]}
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from gpu_mesh.devices.base import Reading
from gpu_mesh.devices.reader import READING_S, Reader
from gpu_mesh.devices.strangers import held_gb, kin_of
from gpu_mesh.domain.device import GB, Device
from gpu_mesh.engines import Engine, engines_for
from gpu_mesh.engines.base import EngineStatus
from gpu_mesh.engines.binding import bound_url
from gpu_mesh.engines.discovery import is_here, somebody_listens
from gpu_mesh.engines.importing import check_unforked
from gpu_mesh.errors import BrokerUnavailable, DeviceError
from gpu_mesh.services.parts import Late, Part
from gpu_mesh.settings import Settings
from gpu_mesh.store import server
from gpu_mesh.store.client import connect, mapped_errors

__all__ = ["Vitals"]

#: How long the machine may take, and Redis for its time, s; the device, a little more than its reader.
SYSTEM_S, CLOCK_S, DEVICE_S = 5.0, 2.0, READING_S + 2.0
#: Added to what an engine may take, s.
ENGINE_GRACE_S = 1.0

#: As `engines_for`.
EnginesOf = Callable[[Device, Settings], Sequence[Engine]]


class Vitals:
    """Takes the report of one worker, as often as it is asked, from one thread. `device` None: it serves none."""

    def __init__(
        self,
        settings: Settings,
        worker: str,
        device: Device | None,
        *,
        engines: EnginesOf = engines_for,
        read: Callable[[], Reading] | None = None,
    ) -> None:
        self._settings = settings
        self._worker = worker
        self._device = device
        self._engines_of = engines
        self._reader = None if device is None else Reader(device)
        self._read = read or (None if self._reader is None else self._reader.read)
        self._client = connect(settings, timeout_s=CLOCK_S, retries=0)
        #: Those with an address, as they were found last.
        self._known: tuple[Engine, ...] = ()
        self._own = _own_tree()
        self._system = Part("system", self._take_system)
        self._hardware = Part("device", self._take_device)
        self._engines = Part("engines", self._take_engines)

    def take(self) -> dict[str, Any]:
        """The report now. Never raises: what cannot be known says so in its place."""
        parts = (self._system, self._hardware, self._engines) if self._device is not None else (self._system,)
        for part in parts:
            part.begin()
        taken_at, system = self._await_system()
        device, held = self._await_device() if self._device is not None else (None, None)
        engines = self._await_engines() if self._device is not None else []
        return {
            "worker": self._worker,
            "taken_at": taken_at,
            "system": system,
            "device": device,
            "held_gb": held,
            "engines": engines,
        }

    def close(self) -> None:
        """End the process that reads the device."""
        if self._reader is not None:
            self._reader.close()
        self._client.close()

    def _await_system(self) -> tuple[float | None, dict[str, Any]]:
        try:
            return self._system.get(SYSTEM_S)
        except Exception as exc:  # noqa: BLE001  # told in the report
            names = ("load", "memory", "disk", "disk_free_gb", "skew_s")
            return None, {**dict.fromkeys(names), "error": _told(exc)}

    def _take_system(self) -> tuple[float | None, dict[str, Any]]:
        wrong = []
        taken_at = skew = disk = None
        try:
            with mapped_errors(self._settings):
                taken_at, skew = server.offset(self._client)
        except BrokerUnavailable as exc:
            wrong.append(str(exc))
        try:
            disk = psutil.disk_usage(str(_existing(self._settings.state_dir)))
        except OSError as exc:
            wrong.append(f"the disk of {self._settings.state_dir} does not say how full it is: {exc}")
        return taken_at, {
            "load": round(os.getloadavg()[0] / (os.cpu_count() or 1), 3),
            "memory": round(psutil.virtual_memory().percent / 100.0, 3),
            "disk": None if disk is None else round(disk.percent / 100.0, 3),
            "disk_free_gb": None if disk is None else round(disk.free / GB, 2),
            "skew_s": None if skew is None else round(skew, 4),
            "error": "; ".join(wrong) or None,
        }

    def _await_device(self) -> tuple[dict[str, Any], float | None]:
        try:
            return self._hardware.get(DEVICE_S)
        except Exception as exc:  # noqa: BLE001  # told in the report
            return {"error": _told(exc), "hard": isinstance(exc, DeviceError) and exc.hard}, None

    def _take_device(self) -> tuple[dict[str, Any], float | None]:
        assert self._read is not None
        reading = self._read()
        held = held_gb(reading.processes, self._own, self._ports(), kin_of)
        return reading.to_dict(), None if held is None else round(held, 3)

    def _ports(self) -> frozenset[int]:
        """Where the engines of the device listen on this machine."""
        urls = {engine.url for engine in self._known} | {self._bound()}
        here = [urlsplit(url) for url in urls if url and is_here(url)]
        return frozenset(url.port or {"https": 443}.get(url.scheme, 80) for url in here)

    def _bound(self) -> str | None:
        return None if self._device is None else bound_url(self._device, self._settings)

    def _await_engines(self) -> list[dict[str, Any]]:
        limit_s = (self._settings.engine_check_timeout_s + ENGINE_GRACE_S) * max(1, len(self._known))
        try:
            return self._engines.get(limit_s)
        except Exception as exc:  # noqa: BLE001  # told in the report
            names = {engine.url: engine.name for engine in self._known} or {self._bound(): "engine"}
            status = EngineStatus(reachable=False, response_ms=limit_s * 1000, error=_told(exc))
            return [_row(name, url, status) for url, name in names.items() if url is not None]

    def _take_engines(self) -> list[dict[str, Any]]:
        assert self._device is not None
        # Cheaper than the client that would find out: most devices without an engine never get one.
        if self._bound() is None and not self._known and not somebody_listens(self._settings.engines):
            return []
        self._known = tuple(e for e in self._engines_of(self._device, self._settings) if e.url is not None)
        return [_row(engine.name, engine.url, check_unforked(engine)) for engine in self._known]


def _row(name: str, url: str | None, status: EngineStatus) -> dict[str, Any]:
    return {
        "name": name,
        "url": url,
        "reachable": status.reachable,
        "ms": round(status.response_ms, 1) if status.reachable else None,
        "version": status.version,
        "models": [model.name for model in status.models],
        "loaded": [
            {"name": m.name, "size_gb": m.size_gb, "vram_gb": m.vram_gb, "cpu_share": round(m.cpu_share, 3)}
            for m in status.models
            if m.loaded
        ],
        "error": status.error,
    }


def _told(exc: Exception) -> str:
    return str(exc) if isinstance(exc, (DeviceError, Late)) else f"{type(exc).__name__}: {exc}"


def _existing(folder: Path) -> Path:
    """It, or what of its path is there."""
    return next((path for path in (folder, *folder.parents) if path.exists()), folder)


def _own_tree() -> Collection[int]:
    """This process, and the supervisor of this node's mesh where it runs under one: what comes of them is ours."""
    own = {os.getpid()}
    with suppress(psutil.Error):
        parent = psutil.Process(os.getppid())
        if any(word in part for part in parent.cmdline()[:4] for word in ("gpu_mesh", "gpu-mesh")):
            own.add(parent.pid)
    return own
