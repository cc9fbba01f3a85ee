"""Memory of a GPU that somebody else holds: no fault of the device, but less to offer (SPEC P6).

Ours are the processes of this node's mesh; the engine's are those that listen at the address of the device's engine,
and what they start. Whose files nobody here may look at, another user's, is known by the names of its programs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import psutil

from gpu_mesh.devices.base import Process

__all__ = ["ENGINE_PROGRAMS", "Kin", "held_gb", "kin_of", "step_gb"]

#: Programs that run models, as their processes are called; `VLLM::…` is how vLLM calls its own.
ENGINE_PROGRAMS = ("ollama", "llama-server", "llama-box", "vllm", "lms", "lm-studio", "sglang")
#: A device offers less by whole steps of this, so that its fits are not judged anew at each look, GB.
STEP_GB = 0.5


@dataclass(frozen=True, slots=True)
class Kin:
    """A process and those it comes from, itself first."""

    pids: tuple[int, ...]
    #: Of those that tell.
    names: tuple[str, ...]
    #: Ports that one of them listens on; None where nobody may look at the process.
    ports: frozenset[int] | None


def held_gb(
    processes: Sequence[Process] | None, own: Collection[int], ports: Collection[int], kin: Callable[[Process], Kin]
) -> float | None:
    """What strangers hold, GB; None where the driver does not tell who holds what.

    `own`: processes whose descendants are ours. `ports`: where engines of the device listen on this machine.
    """
    if processes is None:
        return None
    strangers = [process for process in processes if not _is_known(kin(process), own, ports)]
    if any(process.memory_gb is None for process in strangers):
        return None
    return sum(process.memory_gb or 0.0 for process in strangers)


def _is_known(kin: Kin, own: Collection[int], ports: Collection[int]) -> bool:
    if not set(own).isdisjoint(kin.pids):
        return True
    if not ports:
        return False
    if kin.ports is not None:
        return not kin.ports.isdisjoint(ports)
    return any(name.lower().startswith(ENGINE_PROGRAMS) for name in kin.names)


def step_gb(held: float | None, before: float) -> float:
    """By how much less the device offers, where it was `before`: what is held in whole steps, and the same while that
    is less than a step off. What is not known takes nothing."""
    if held is None:
        return 0.0
    return before if abs(held - before) < STEP_GB else round(held / STEP_GB) * STEP_GB


def kin_of(process: Process) -> Kin:
    """The kin of a process of this machine, as far as it may be looked at."""
    names = [] if process.name is None else [process.name]
    try:
        found = psutil.Process(process.pid)
        line = [found, *found.parents()]
    except psutil.Error:
        # It ended meanwhile; or it is of another container.
        return Kin((process.pid,), tuple(names), None)
    names += _told(line)
    return Kin(tuple(one.pid for one in line), tuple(names), _ports(line))


def _told(line: Iterable[psutil.Process]) -> list[str]:
    names = []
    for one in line:
        try:
            names.append(one.name())
        except psutil.Error:
            continue
    return names


def _ports(line: Sequence[psutil.Process]) -> frozenset[int] | None:
    """None where the first may not be looked at; of those above it only what may."""
    found: set[int] = set()
    for one in line:
        try:
            found.update(entry.laddr.port for entry in one.net_connections("tcp") if entry.status == psutil.CONN_LISTEN)
        except psutil.Error:
            if one is line[0]:
                return None
    return frozenset(found)
