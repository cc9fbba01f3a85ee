"""One job at a time per device, whatever happens (SPEC P7): a lock that the kernel releases with its last holder.

The process that computes holds it during a job: a pool child that outlives its worker, or another mesh of the machine,
keeps others off. `flock` on a file per device, in a folder that all users of the machine share.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from hashlib import blake2b
from pathlib import Path

from gpu_mesh.domain.addresses import mask
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.settings import Settings

__all__ = ["DeviceLock", "lock_name"]

logger = logging.getLogger(__name__)

#: Everybody makes files there, nobody removes another's.
FOLDER_MODE = 0o1777
#: To lock a file it is enough to be able to read it.
FILE_MODE = 0o444
#: Linux's account of who holds what.
LOCKS = Path("/proc/locks")


def lock_name(device: Device, settings: Settings) -> str:
    """The name of a device's lock: the same for all meshes of a machine where the device is the same thing.

    A GPU by its UUID, an engine elsewhere by its address. A pretended device, or a CPU, is shared by as many meshes as
    want it: there the lock is its mesh's own.
    """
    if device.kind is DeviceKind.NVIDIA and device.uuid:
        return device.uuid
    if device.kind is DeviceKind.APPLE:
        return "apple"
    if device.kind is DeviceKind.ENDPOINT and device.engine_url:
        return f"engine-{_digest(device.engine_url)}"
    return f"own-{_digest(device.worker, str(settings.state_dir), mask(settings.broker_url or ''))}"


def _digest(*parts: str) -> str:
    return blake2b("\n".join(parts).encode(), digest_size=12).hexdigest()


class DeviceLock:
    """One device's lock, as one process has it. Where its folder cannot be used it locks nothing, and says so once."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.lock"
        self._fd: int | None = None
        self._failed = False
        self._holds = False

    @property
    def fd(self) -> int | None:
        """The open file of a lock that this process holds: who inherits it holds it too."""
        return self._fd if self._holds else None

    def take(self) -> bool:
        """Hold it; False where somebody else does. Never waits."""
        self._holds = self._try(fcntl.LOCK_EX)
        return self._holds

    def release(self) -> None:
        """Hold it no more, and nor does who inherited it."""
        if self._holds and self._fd is not None:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        self._holds = False

    def is_free(self) -> bool:
        """Whether nobody holds it, this process included; of several who ask at once each hears the truth."""
        if not self._try(fcntl.LOCK_SH):
            return False
        if self._fd is not None:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        return True

    def holder(self) -> int | None:
        """Process id of who holds it, as far as this machine tells; of several that share it, who took it."""
        try:
            wanted = f":{self.path.stat().st_ino}"
            rows = (line.split() for line in LOCKS.read_text(encoding="ascii").splitlines())
            return next((int(row[4]) for row in rows if row[1] == "FLOCK" and row[5].endswith(wanted)), None)
        except (OSError, ValueError, IndexError):
            return None

    def _try(self, how: int) -> bool:
        fd = self._open()
        if fd is None:
            return True
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as exc:  # a file system without locks; or a job closed what is not its own
            self._fd = None
            self._cannot(exc)
        return True

    def _cannot(self, exc: OSError) -> None:
        self._failed = True
        logger.warning("%s cannot be locked: %s; other meshes may use the device too", self.path, exc)

    def _open(self) -> int | None:
        if self._fd is None and not self._failed:
            try:
                self._fd = _opened(self.path)
            except OSError as exc:
                self._cannot(exc)
        return self._fd


def _opened(path: Path) -> int:
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(FOLDER_MODE)  # not cut by the umask
    # Without O_NONBLOCK a named pipe that somebody put there would be waited for.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        # Without O_CREAT: Linux refuses that for another user's file in such a folder.
        fd = os.open(path, flags)
    except FileNotFoundError:
        try:
            fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, FILE_MODE)
            os.fchmod(fd, FILE_MODE)
        except FileExistsError:
            fd = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(f"{path} is no file")
    return fd
