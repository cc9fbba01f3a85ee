"""A device read again and again by a process apart, that hangs, dies or is slow to start (DESIGN §8)."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gpus import Gpus
from processes import runs
from waiting import wait_for

from gpu_mesh.devices.reader import ARGV, Reader
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.errors import DeviceError

#: In the place of the process: what it does once it is asked.
READY = "import sys, time; print('\"ready\"', flush=True); sys.stdin.readline(); "


def device(kind: DeviceKind = DeviceKind.NVIDIA) -> Device:
    return Device(name="gpu0", node="n", kind=kind, gpu_type="A40", memory_gb=40.0, uuid="GPU-0")


@pytest.fixture(scope="module")
def gpus(tmp_path_factory: pytest.TempPathFactory) -> Gpus:
    return Gpus(tmp_path_factory.mktemp("gpus") / "gpus.json", 1)


@pytest.fixture(scope="module")
def reader(gpus: Gpus) -> Iterator[Reader]:
    """The real process, on a library that a test rewrites."""
    words = [f"{name}={value}" for name, value in gpus.env.items()]
    found = Reader(device(), argv=("/usr/bin/env", *words, *ARGV), timeout_s=20.0)
    yield found
    found.close()


def test_readings_by_one_process(reader: Reader, gpus: Gpus) -> None:
    """H1: also of a GPU that fell off the bus and came back; errors of the driver are heard while it lives."""
    assert reader.read().xids == ()
    gpus.xid(0, 62)
    gpus.set(0, temperature=92)
    found = reader.read()
    assert (found.temperature_c, found.xids, len(found.faults), len(found.warnings)) == (92.0, (62,), 1, 1)
    gpus.lose(0)
    with pytest.raises(DeviceError, match=r"power the machine off.*XID 62") as caught:
        reader.read()
    assert caught.value.hard
    gpus.reset(0)
    assert reader.read().xids == (62,)


def test_what_the_driver_told_outlives_a_hang(gpus: Gpus) -> None:
    """H1: a GPU that halted and then hung its driver is not well when that answers again."""
    words = [f"{name}={value}" for name, value in gpus.env.items()]
    found = Reader(device(), argv=("/usr/bin/env", *words, *ARGV), timeout_s=20.0)
    try:
        found.read()
        gpus.xid(0, 119)
        gpus.hang("nvmlDeviceGetMemoryInfo")
        found._timeout_s = 0.5
        with pytest.raises(DeviceError, match="its driver hangs"):
            found.read()
        gpus.hang()
        found._timeout_s = 20.0
        for _ in range(2):
            assert found.read().xids == (119,)
        assert any("XID 119" in fault for fault in found.read().faults)
    finally:
        found.close()
        gpus.reset(0)


def test_the_process_is_small(reader: Reader) -> None:
    """H9: it loads no Celery: one for each device stays for as long as its worker."""
    reader.read()
    assert reader._process is not None
    maps = Path(f"/proc/{reader._process.pid}/maps")
    if not maps.exists():
        pytest.skip("no /proc on this system")
    assert "pydantic_core" not in maps.read_text()


@pytest.mark.parametrize(
    ("does", "says", "hard"),
    [
        ("time.sleep(60)", "its driver hangs, no answer within 0.3 s", True),
        ("sys.stdout.write('{'); sys.stdout.flush(); time.sleep(60)", "its driver hangs", True),
        ("import os; os.kill(os.getpid(), 11)", "exit code -11", False),
        ("print('no JSON')", "Expecting value", False),
        ("print(1)", "it says 1", False),
    ],
)
def test_a_process_that_fails(does: str, says: str, hard: bool) -> None:
    """H1: the caller never hangs, a driver that does is the hardware's fault, and the next reading begins anew."""
    limit_s = 0.3 if hard else 20.0
    found = Reader(device(), argv=(sys.executable, "-c", READY + does), timeout_s=limit_s)
    for _ in range(2):
        with pytest.raises(DeviceError, match=says) as caught:
            found.read()
        assert caught.value.hard is hard
    assert found._process is None


@pytest.mark.parametrize("argv", [(sys.executable, "-c", "import time; time.sleep(60)"), ("/nonexistent",)])
def test_a_process_that_does_not_start_is_no_fault_of_the_device(argv: tuple[str, ...]) -> None:
    """H1: a machine that is busy, or short of processes, has no broken GPU."""
    with pytest.raises(DeviceError, match="did not start") as caught:
        Reader(device(), argv=argv, start_s=0.2).read()
    assert not caught.value.hard


def test_what_has_no_driver_is_read_here() -> None:
    found = Reader(device(DeviceKind.FAKE), argv=("/nonexistent",))
    assert found.read().memory_total_gb == 40.0


def test_the_process_ends_with_its_parent() -> None:
    """H1: also when that is killed."""
    program = (
        "import os, time\nfrom gpu_mesh.devices.reader import Reader\nfrom gpu_mesh.domain.device import Device\n"
        f"found = Reader(Device.from_dict({device().to_dict()!r}), argv=({sys.executable!r}, '-c', {READY!r} + "
        "'print(1, flush=True); sys.stdin.read()'))\n"
        "try:\n    found.read()\nexcept Exception:\n    pass\n"
        "found._started()\nprint(found._process.pid, flush=True)\ntime.sleep(60)\n"
    )
    read_end, write_end = os.pipe()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", program],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, write_end, 1)],
    )
    os.close(write_end)
    with os.fdopen(read_end) as told:
        probe = int(told.readline())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait_for(lambda: not runs(probe), "the end of the reading process")
