"""Readings from a process apart, also from one that hangs or dies (SPEC P7; DESIGN §8)."""

from __future__ import annotations

import logging
import sys
import time

import pytest

from gpu_mesh.devices.apart import readings
from gpu_mesh.domain.device import Device, DeviceKind

#: In the place of the process: what it does once it is asked.
ASKED = "import sys, time; sys.stdin.readline(); "


def device(kind: DeviceKind) -> Device:
    return Device(name="gpu0", node="n", kind=kind, gpu_type="A40", memory_gb=40.0, uuid="GPU-none-such")


def test_a_reading() -> None:
    """As the device's own source gives it, as often as it is asked."""
    with readings(device(DeviceKind.FAKE)) as look:
        for _ in range(2):
            found = look()
            assert found is not None
            assert (found.memory_total_gb, found.memory_used_gb) == (40.0, 0.0)


def test_a_device_that_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    """None, with the reason in the log: there is no such card here."""
    with caplog.at_level(logging.WARNING), readings(device(DeviceKind.NVIDIA)) as look:
        assert look() is None
    assert "gpu0@n cannot be read: gpu0 (A40, GPU-none-such) cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("does", "limit_s", "says"),
    [
        ("time.sleep(60)", 0.3, "no answer within 0.3 s"),
        ("sys.stdout.write('{'); sys.stdout.flush(); time.sleep(60)", 0.3, "no answer within 0.3 s"),
        ("sys.exit(1)", 20.0, "the process that reads it ended"),
        ("print('no JSON')", 20.0, "Expecting value"),
    ],
)
def test_a_process_that_fails(does: str, limit_s: float, says: str, caplog: pytest.LogCaptureFixture) -> None:
    """It costs its limit once; the caller never hangs."""
    began = time.monotonic()
    argv = (sys.executable, "-c", ASKED + does)
    with caplog.at_level(logging.WARNING), readings(device(DeviceKind.FAKE), argv=argv, timeout_s=limit_s) as look:
        assert look() is None
        assert look() is None
    assert time.monotonic() - began < 20
    [record] = caplog.records
    assert says in record.getMessage()


def test_no_process_at_all(caplog: pytest.LogCaptureFixture) -> None:
    """A machine short of processes is no reason to lose a job."""
    with caplog.at_level(logging.WARNING), readings(device(DeviceKind.FAKE), argv=("/nonexistent",)) as look:
        assert look() is None
    assert "/nonexistent" in caplog.text
