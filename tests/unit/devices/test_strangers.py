"""Whose memory it is (SPEC P6): ours, the engine's, or a stranger's, which lowers what a device offers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from gpu_mesh.devices import Process
from gpu_mesh.devices.strangers import Kin, held_gb, kin_of, step_gb

OURS, PORT = 100, 11434

KIN = {
    # A job of ours, and what it started.
    1: Kin((1, 50, OURS, 1000), ("python3",), frozenset()),
    # An Ollama whose files we may see, its runner, and a second Ollama, of another device.
    2: Kin((2,), ("ollama",), frozenset({PORT})),
    3: Kin((3, 2), ("ollama", "ollama"), frozenset({40000, PORT})),
    4: Kin((4,), ("ollama",), frozenset({11435})),
    # An Ollama of another user, by name alone; and a game.
    5: Kin((5,), ("ollama", "systemd"), None),
    6: Kin((6,), ("VLLM::EngineCore",), None),
    7: Kin((7,), ("blender",), frozenset()),
    8: Kin((8,), ("Xorg",), None),
}


def held(*pids: int, ports: tuple[int, ...] = (PORT,)) -> float | None:
    processes = [Process(pid=pid, memory_gb=float(pid)) for pid in pids]
    return held_gb(processes, {OURS}, ports, lambda process: KIN[process.pid])


@pytest.mark.parametrize(
    ("pid", "stranger"), [(1, False), (2, False), (3, False), (4, True), (5, False), (6, False), (7, True), (8, True)]
)
def test_who_is_a_stranger(pid: int, stranger: bool) -> None:
    """P6: neither our descendant nor who listens at the engine's address, nor called like one where nobody may look."""
    assert held(pid) == (float(pid) if stranger else 0.0)


def test_what_strangers_hold_together() -> None:
    assert held(1, 2, 7, 8) == 15.0
    assert held() == 0.0


def test_a_device_without_an_engine_has_nobody_elses_either() -> None:
    """P6: an Ollama that does no work for this device holds its memory like any other."""
    assert held(2, 5, ports=()) == 7.0


def test_what_is_not_told_is_not_known() -> None:
    """P6: a container or WSL tells no processes, or no sizes; of ours no size is needed."""
    assert held_gb(None, {OURS}, (), lambda process: KIN[process.pid]) is None
    assert held_gb([Process(pid=7)], {OURS}, (), lambda process: KIN[process.pid]) is None
    assert held_gb([Process(pid=1)], {OURS}, (), lambda process: KIN[process.pid]) == 0.0


@pytest.mark.parametrize(
    ("now", "before", "after"),
    [
        (0.0, 0.0, 0.0),
        (0.4, 0.0, 0.0),
        (0.5, 0.0, 0.5),
        (10.1, 0.0, 10.0),
        (9.7, 10.0, 10.0),
        (10.4, 10.0, 10.0),
        (9.5, 10.0, 9.5),
        (0.1, 10.0, 0.0),
        (None, 10.0, 0.0),
    ],
)
def test_steps(now: float | None, before: float, after: float) -> None:
    """P6: what wavers by less than half a GB changes nothing."""
    assert step_gb(now, before) == after


def test_kin_of_a_process() -> None:
    """P6: real processes: a child's kin is we, with our ports; who is gone has none."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
            found = kin_of(Process(pid=child.pid, name="python3"))
            child.communicate(b"\n")
        assert found.pids[:2] == (child.pid, os.getpid())
        assert "python3" in found.names
        assert found.ports is not None
        assert server.getsockname()[1] in found.ports
    assert kin_of(Process(pid=child.pid, name="gone")) == Kin((child.pid,), ("gone",), None)
