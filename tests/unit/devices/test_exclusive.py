"""One job at a time per device (SPEC P7): devices/exclusive and services/exclusion, with strangers beside them."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from waiting import wait_for

from gpu_mesh.devices.exclusive import DeviceLock, lock_name
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.services import exclusion
from gpu_mesh.services.exclusion import Gatekeeper
from gpu_mesh.settings import Settings, settings

#: Takes the lock of a file and tells so; with a second argument a process of its own shares it.
STRANGER = """
import os, sys, time, fcntl
file = open(sys.argv[1])
fcntl.flock(file, fcntl.LOCK_EX)
child = os.fork() if len(sys.argv) > 2 else -1
if child:
    print(child, flush=True)
time.sleep(60)
"""


def device(kind: DeviceKind = DeviceKind.FAKE, **more: object) -> Device:
    return Device(**{"name": "gpu0", "node": "n1", "kind": kind, "gpu_type": "A40", "memory_gb": 40.0, **more})


@contextmanager
def stranger(path: Path, *more: str) -> Iterator[subprocess.Popen]:
    """A process that holds the lock; `child` is the one that shares it, where it has one."""
    with subprocess.Popen(
        [sys.executable, "-c", STRANGER, str(path), *more], stdout=subprocess.PIPE, text=True
    ) as found:
        try:
            assert found.stdout is not None
            found.child = int(found.stdout.readline())
            yield found
        finally:
            found.kill()


@pytest.fixture
def lock(tmp_path: Path) -> DeviceLock:
    found = DeviceLock(tmp_path / "locks", "GPU-1")
    assert found.is_free()
    return found


class TestName:
    def test_what_is_the_same_thing_has_the_same_lock(self, tmp_path: Path):
        """P7: a GPU for all meshes of a machine, whatever they call it; an engine by its address."""
        here, there = Settings(state_dir=tmp_path / "a"), Settings(state_dir=tmp_path / "b")
        for kind, more in [
            (DeviceKind.NVIDIA, {"uuid": "GPU-1"}),
            (DeviceKind.APPLE, {}),
            (DeviceKind.ENDPOINT, {"engine_url": "http://a:1"}),
        ]:
            assert lock_name(device(kind, **more), here) == lock_name(
                device(kind, name="gpu7", node="x", **more), there
            )
        names = [device(DeviceKind.NVIDIA, uuid="GPU-2"), device(DeviceKind.ENDPOINT, engine_url="http://a:2")]
        assert lock_name(names[0], here) != "GPU-1"
        assert lock_name(names[1], here) != lock_name(device(DeviceKind.ENDPOINT, engine_url="http://a:1"), here)

    def test_what_is_pretended_is_each_meshs_own(self, tmp_path: Path):
        """P7: meshes that share a CPU, tests for instance, do not wait for each other."""
        here = Settings(state_dir=tmp_path / "a")
        for kind in (DeviceKind.FAKE, DeviceKind.CPU):
            assert lock_name(device(kind), here) == lock_name(device(kind, gpu_type="other"), here)
            for other in (
                Settings(state_dir=tmp_path / "b"),
                Settings(state_dir=tmp_path / "a", broker_url="redis://h/1"),
            ):
                assert lock_name(device(kind), here) != lock_name(device(kind), other)
            assert lock_name(device(kind), here) != lock_name(device(kind, name="gpu1"), here)


class TestLock:
    def test_one_has_it(self, lock: DeviceLock):
        """P7: not even this process twice; whoever only asks keeps nobody off, nor another who asks."""
        other = DeviceLock(lock.path.parent, "GPU-1")
        assert lock.take()
        assert not other.take()
        assert not other.is_free()
        assert lock.holder() == os.getpid()
        lock.release()
        assert other.is_free()
        assert lock.is_free()
        assert other.take()

    @pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
    def test_the_kernel_releases_it(self, lock: DeviceLock, end: int):
        """P7: however its holder ends."""
        with stranger(lock.path) as other:
            assert not lock.take()
            assert lock.holder() == other.pid
            other.send_signal(end)
            wait_for(lock.take, "the lock")

    def test_a_child_left_alive_keeps_it(self, lock: DeviceLock):
        """P7: whoever is still computing, although its parent is dead."""
        with stranger(lock.path, "with a child") as other:
            try:
                other.kill()
                other.wait()
                assert not lock.is_free()
            finally:
                os.kill(other.child, signal.SIGKILL)
            wait_for(lock.is_free, "the lock")

    def test_files_of_another_user(self, lock: DeviceLock):
        """Everybody may lock what another one made: the folder is open to all, the file needs but be read."""
        assert lock.path.parent.stat().st_mode & 0o7777 == 0o1777
        assert lock.path.stat().st_mode & 0o777 == 0o444

    @pytest.mark.parametrize(
        "spoil", [lambda path: path.parent.write_text(""), lambda path: _link(path), lambda path: _pipe(path)]
    )
    def test_a_folder_that_is_none(
        self, tmp_path: Path, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
    ):
        """No lock is no reason to do no work; it is said once. A link is not followed, nor a pipe waited for."""
        path = tmp_path / "locks" / "GPU-1.lock"
        spoil(path)
        lock = DeviceLock(path.parent, "GPU-1")
        assert lock.is_free()
        assert lock.take()
        assert lock.fd is None
        lock.release()
        assert caplog.text.count("cannot be locked") == 1

    def test_a_lock_that_cannot_be_had(self, lock: DeviceLock, caplog: pytest.LogCaptureFixture):
        """A file system without locks, or a job that closed what is not its own: the same."""
        assert lock.take()
        os.close(lock.fd or -1)
        assert lock.is_free()
        assert lock.take()
        assert lock.fd is None
        lock.release()
        assert caplog.text.count("cannot be locked") == 1


def _pipe(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(path.parent / "elsewhere")


class TestJobs:
    def test_all_devices_or_none(self):
        """P7: a job of several whose second device is taken leaves the first one free."""
        first, second = device(), device(name="gpu1")
        path = exclusion._lock(second, settings()).path
        assert exclusion.take([first, second]) is None
        assert len(exclusion.held()) == 2
        exclusion.release()
        assert exclusion.held() == []
        with stranger(path) as other:
            why = exclusion.take([second, first], patience_s=0.05)
            assert why == f"its device is in use by process {other.pid} ({path})"
            assert exclusion.held() == []
            assert exclusion.take([first]) is None
        exclusion.release()

    def test_a_job_without_devices_needs_none(self):
        """Q6: CPU queues."""
        assert exclusion.take([]) is None
        assert exclusion.held() == []


class TestGatekeeper:
    def test_claims_wait_for_a_stranger(self, caplog: pytest.LogCaptureFixture):
        """P7: it is said who it is, after a moment and then seldom, and when it is over."""
        now = [0.0]
        caplog.set_level(logging.INFO)
        path = exclusion._lock(device(), settings()).path
        keeper = Gatekeeper(settings(), device(), clock=lambda: now[0])
        assert keeper.may_claim()
        with stranger(path) as other:
            for now[0] in (0.0, 0.5, 1.0, 10.0, 31.0):
                assert not keeper.may_claim()
            assert caplog.text.count(f"claims wait: its device is in use by process {other.pid}") == 2
        assert keeper.may_claim()
        assert "free again" in caplog.text

    def test_without_a_device_nobody_waits(self):
        """Q6: workers of CPU queues."""
        assert Gatekeeper(settings(), None).may_claim()
