"""The devices of a job are its own while it runs (SPEC P7): see devices/exclusive, where the lock is."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence

import psutil

from gpu_mesh.devices.exclusive import DeviceLock, lock_name
from gpu_mesh.domain.device import Device
from gpu_mesh.settings import Settings, settings

__all__ = ["Gatekeeper", "held", "release", "take"]

logger = logging.getLogger(__name__)

#: How long a job waits for its devices, s: a moment, for another worker may just be asking whether they are free.
PATIENCE_S, RETRY_S = 1.0, 0.01
#: When a worker that waits says so, s, and how often then: what a killed job leaves takes a moment to end.
SAY_AFTER_S, SAY_EVERY_S = 1.0, 30.0

#: By process and path: a child that was forked opens files of its own.
_locks: dict[tuple[int, str], DeviceLock] = {}


def _lock(device: Device, current: Settings) -> DeviceLock:
    name = lock_name(device, current)
    key = (os.getpid(), str(current.lock_dir / name))
    found = _locks.get(key)
    return found or _locks.setdefault(key, DeviceLock(current.lock_dir, name))


def take(devices: Sequence[Device], patience_s: float = PATIENCE_S) -> str | None:
    """Have this process hold the devices until `release`; where others hold one of them, none, and who they are."""
    current, end = settings(), time.monotonic() + patience_s
    # In one order: two jobs of the same two devices must not wait for each other.
    wanted = sorted({lock.path: lock for device in devices if (lock := _lock(device, current))}.items())
    release()
    for _, lock in wanted:
        while not lock.take():
            if time.monotonic() >= end:
                release()
                return _told(lock)
            time.sleep(RETRY_S)
    return None


def release() -> None:
    """Hold no device any more."""
    for (pid, _), lock in _locks.items():
        if pid == os.getpid():
            lock.release()


def held() -> list[int]:
    """Open files of the locks that this process holds, for a process that is to hold them beyond its death."""
    return [lock.fd for (pid, _), lock in _locks.items() if pid == os.getpid() and lock.fd is not None]


def _told(lock: DeviceLock) -> str:
    pid = lock.holder()
    who = "another process" if pid is None else f"process {pid}"
    if pid is not None and not psutil.pid_exists(pid):
        who = f"what {who} left behind"
    return f"its device is in use by {who} ({lock.path})"


class Gatekeeper:
    """A worker's parent's: claims wait while a stranger's job holds its device."""

    def __init__(
        self, current: Settings, device: Device | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lock = DeviceLock(current.lock_dir, lock_name(device, current)) if device is not None else None
        self._clock = clock
        #: When to say next that claims wait; None: they do not.
        self._say_at: float | None = None
        self._said = False

    def may_claim(self) -> bool:
        """Whether the device is free; to be asked while the worker runs no job. Costs microseconds."""
        if self._lock is None or self._lock.is_free():
            if self._said:
                logger.info("the device is free again", extra={"action": "device_free"})
            self._say_at, self._said = None, False
            return True
        now = self._clock()
        if self._say_at is None:
            self._say_at = now + SAY_AFTER_S
        elif now >= self._say_at:
            self._say_at, self._said = now + SAY_EVERY_S, True
            logger.warning("claims wait: %s", _told(self._lock), extra={"action": "device_busy"})
        return False
