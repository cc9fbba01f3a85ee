"""Readings of a device taken in a process apart: a call into a broken driver can hang its caller for ever.

As a program it takes a device as JSON, and answers each line of its standard input with a reading.
"""

from __future__ import annotations

import json
import logging
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeAlias

from gpu_mesh.devices.base import Reading
from gpu_mesh.devices.detection import read
from gpu_mesh.domain.device import Device
from gpu_mesh.errors import DeviceError

__all__ = ["Look", "readings"]

logger = logging.getLogger(__name__)

#: One reading; None where there is none to be had.
Look: TypeAlias = Callable[[], Reading | None]

#: How long one reading may take, the start of the process included, s.
READING_S = 5.0
#: How long the end of a killed process is waited for, s: one that hangs in its driver does not end.
END_S = 0.5
ARGV = (sys.executable, "-P", "-m", "gpu_mesh.devices.apart")


@contextmanager
def readings(device: Device, *, argv: Sequence[str] = ARGV, timeout_s: float = READING_S) -> Iterator[Look]:
    """A function that reads the device, for as long as the block lasts.

    It returns within `timeout_s`: None where the device cannot be read, and from the first time on that it hung.
    """
    try:
        process = subprocess.Popen(
            [*argv, json.dumps(device.to_dict())], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
    except OSError as exc:
        logger.warning("%s cannot be read: %s", device.worker, exc, extra={"action": "read"})
        yield lambda: None
        return
    try:
        yield _Asker(device, process, timeout_s)
    finally:
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


class _Asker:
    def __init__(self, device: Device, process: subprocess.Popen[bytes], timeout_s: float) -> None:
        self._device, self._process, self._timeout_s = device, process, timeout_s
        self._gave_up = False

    def __call__(self) -> Reading | None:
        if self._gave_up:
            return None
        try:
            found = json.loads(self._answer())
            if "error" not in found:
                return Reading.from_dict(found)
            why = str(found["error"])
        except (OSError, ValueError, TypeError) as exc:
            why, self._gave_up = str(exc), True
        logger.warning("%s cannot be read: %s", self._device.worker, why, extra={"action": "read"})
        return None

    def _answer(self) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        end, said = time.monotonic() + self._timeout_s, b""
        while not said.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError(f"no answer within {self._timeout_s:g} s: see what `nvidia-smi` says")
            if not (some := self._process.stdout.read(1 << 16)):
                raise OSError("the process that reads it ended")
            said += some
        return said


def _serve() -> None:
    device = Device.from_dict(json.loads(sys.argv[1]))
    for _ in sys.stdin:
        try:
            found = read(device).to_dict()
        except DeviceError as exc:
            found = {"error": str(exc)}
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
