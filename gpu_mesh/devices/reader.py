"""Readings of one device again and again, by a process apart that lives between them (`probe`).

A call into a broken driver can hang its caller for ever, or crash it. Whoever asks here gets an answer in time.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpu_mesh.devices.base import Reading
from gpu_mesh.devices.detection import source_for
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.errors import DeviceError

__all__ = ["READING_S", "Reader"]

#: How long a reading may take before its driver counts as hanging, s, and the start of the process that takes it.
READING_S, START_S = 10.0, 30.0
#: How long the end of a killed process is waited for, s: one that hangs in its driver does not end.
END_S = 0.5
#: Ends a line that tells of the driver's errors (XID), before a reading that may hang.
MORE = b" \n"
ARGV = (sys.executable, "-P", str(Path(__file__).resolve().with_name("probe.py")))
#: Kinds of devices that have a driver to hang in.
APART = frozenset({DeviceKind.NVIDIA})


class Reader:
    """Reads `device`; belongs to one thread at a time. One that has no driver is read in this process."""

    def __init__(
        self, device: Device, *, argv: Sequence[str] = ARGV, timeout_s: float = READING_S, start_s: float = START_S
    ) -> None:
        self._device = device
        self._argv = argv
        self._timeout_s, self._start_s = timeout_s, start_s
        self._process: subprocess.Popen[bytes] | None = None
        #: One that was killed and has not ended.
        self._stuck: subprocess.Popen[bytes] | None = None
        #: The driver's errors that were told: the process that takes over from one that hung cannot hear them again.
        self._xids: list[int] = []

    def read(self) -> Reading:
        """How the device is now, within `start_s` + `timeout_s`.

        Raises:
            DeviceError: it is lost, hangs or cannot be read; the message says what to do.
        """
        if self._device.kind not in APART:
            return source_for(self._device).read(self._device)
        if self._stuck is not None and self._stuck.poll() is None:
            raise self._error(f"its driver still holds process {self._stuck.pid}, which asked: reboot", hard=True)
        self._stuck = None
        process = self._started()
        try:
            assert process.stdin is not None
            process.stdin.write(b"\n")
            found = _answer(process, self._timeout_s, self._hear)
            if not isinstance(found, dict):
                raise ValueError(f"it says {found!r}")
        except TimeoutError:
            self.close()
            raise self._error(
                f"its driver hangs, no answer within {self._timeout_s:g} s: reboot where `nvidia-smi` hangs too",
                hard=True,
            ) from None
        except (OSError, ValueError) as exc:
            self.close()
            raise self._error(f"{exc}: see what `nvidia-smi` says") from exc
        if "error" in found:
            raise DeviceError(str(found["error"]), hard=bool(found.get("hard")))
        self._hear(found.get("xids") or self._xids)
        return Reading.from_dict(found)

    def _hear(self, xids: Any) -> None:
        self._xids = [int(xid) for xid in xids]

    def close(self) -> None:
        """End the process; the next reading starts another."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._stuck = process
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        try:
            self._process = subprocess.Popen(
                [*self._argv, json.dumps(self._device.to_dict()), json.dumps(self._xids)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
            )
            _answer(self._process, self._start_s)
        except (OSError, ValueError) as exc:  # TimeoutError too: a machine that is busy is not the device's fault
            self.close()
            raise self._error(f"the process that is to read it did not start ({exc}): is this machine busy?") from exc
        return self._process

    def _error(self, why: str, *, hard: bool = False) -> DeviceError:
        return DeviceError(f"{self._device.name} ({self._device.gpu_type}) cannot be read: {why}", hard=hard)


def _answer(process: subprocess.Popen[bytes], limit_s: float, hear: Callable[[Any], object] = lambda _: None) -> Any:
    """The next line as JSON; `hear` hears what is told before it. Raises TimeoutError, OSError where it ended,
    ValueError."""
    assert process.stdout is not None
    end, said = time.monotonic() + limit_s, b""
    while not said.endswith(b"\n"):
        if not select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
            raise TimeoutError(f"no answer within {limit_s:g} s")
        if not (some := os.read(process.stdout.fileno(), 1 << 16)):
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
            raise OSError(f"the process that reads it ended (exit code {process.returncode})")
        *before, said = (said + some).split(MORE)
        for line in before:
            hear(json.loads(line))
    return json.loads(said)
