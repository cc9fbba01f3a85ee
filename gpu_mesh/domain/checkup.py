"""From what a worker's parent reports, or does not, to what a check finds (SPEC H1): pure rules.

A report is what the remote-control command `gpu_health` answers (services/vitals). What is missing in one, or of
another type, is not judged: a newer or an older worker is not ill for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpu_mesh.domain.health import Finding, Severity
from gpu_mesh.domain.untyped import mapping, number, sequence

__all__ = ["Endpoint", "of_device", "of_endpoint", "of_node"]

#: What makes a node degraded: load of one minute per core, shares of memory and disk in use, clocks apart, s.
LOAD, MEMORY, DISK, SKEW_S = 8.0, 0.95, 0.95, 2.0
#: A full disk of that much free space is none, GB.
DISK_FREE_GB = 10.0
#: Part of a model that may lie outside GPU memory: some engines round.
CPU_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a look at an address found. `error` None: it answers."""

    name: str
    url: str
    ms: float
    error: str | None
    models: tuple[str, ...] = ()


def of_device(
    report: Mapping[str, Any] | None, *, is_alive: bool, is_gpu: bool, where: str, old_s: float
) -> list[Finding]:
    """Findings of a device. `report` None: its worker did not answer; `is_alive`: yet its lease holds. `where`: its
    engine is `local` to its node or `remote`; a report of more than `old_s` is too old."""
    if report is None:
        return [_silent(is_alive)]
    if (age_s := number(report.get("age_s"))) is not None and age_s > old_s:
        remedy = "something there hangs: see `nvidia-smi` and the worker's log"
        return [Finding(Severity.FAILURE, "worker", f"its last report is {age_s:.0f} s old", remedy)]
    return [*_hardware(mapping(report.get("device"))), *_engines(report.get("engines"), is_gpu, where)]


def _silent(is_alive: bool) -> Finding:
    if is_alive:
        return Finding(
            Severity.FAILURE,
            "worker",
            "its worker lives but does not answer",
            "see its log; `gpu-mesh alive` asks it again",
        )
    return Finding(
        Severity.FAILURE, "worker", "its worker is not there", "start it again with `gpu-mesh worker`, and see its log"
    )


def _hardware(device: Mapping[str, Any]) -> list[Finding]:
    if (error := device.get("error")) is not None:
        severity = Severity.FAULT if device.get("hard") else Severity.FAILURE
        return [Finding(severity, "gpu", str(error))]
    return [
        *(Finding(Severity.FAULT, "gpu", str(fault)) for fault in sequence(device.get("faults"))),
        *(Finding(Severity.WARNING, "gpu", str(warning)) for warning in sequence(device.get("warnings"))),
    ]


def _engines(engines: object, is_gpu: bool, where: str) -> list[Finding]:
    found = []
    for engine in map(mapping, sequence(engines)):
        name, url = engine.get("name", "engine"), engine.get("url")
        if url is not None and engine.get("reachable") is False:
            remedy = _REMEDIES[where].format(url=url)
            found.append(Finding(Severity.FAILURE, "engine", str(engine.get("error") or f"{name} is silent"), remedy))
        for model in map(mapping, sequence(engine.get("loaded"))):
            share = number(model.get("cpu_share"))
            if is_gpu and share is not None and share > CPU_SHARE:
                found.append(
                    Finding(
                        Severity.WARNING,
                        "cpu_fallback",
                        f"{share:.0%} of model {model.get('name')} runs on the CPU",
                        "it does not fit in the GPU's memory beside what else is there: unload that, or take a smaller "
                        "model, quantisation or context",
                    )
                )
    return found


_REMEDIES = {
    "local": "start the engine on its node; with GPU_MESH_ENGINE_RESTART set there, the mesh does",
    "remote": "see whether the tunnel stands and the engine runs at its end: `curl {url}/api/version`",
}


def of_node(system: Mapping[str, Any] | None, *, silent_s: float | None) -> list[Finding]:
    """Findings of a node. `system`: that part of one of its workers' reports; `silent_s`: it was not heard of for so
    long, None where it was."""
    if silent_s is not None:
        return [
            Finding(
                Severity.FAILURE,
                "node",
                f"not heard of for {silent_s:.0f} s",
                "see whether the machine runs, reaches Redis, and `gpu-mesh worker` runs on it",
            )
        ]
    return [Finding(Severity.WARNING, what, text, remedy) for what, text, remedy in _system(system or {})]


def _system(system: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    found = []
    load, memory, disk = (number(system.get(name)) for name in ("load", "memory", "disk"))
    free, skew = number(system.get("disk_free_gb")), number(system.get("skew_s"))
    if load is not None and load > LOAD:
        found.append(("load", f"load is {load:.1f} per core", "see what else runs there: `top`"))
    if memory is not None and memory > MEMORY:
        found.append(("memory", f"{memory:.0%} of its memory is in use", "end what else runs there, or add memory"))
    if disk is not None and disk > DISK and (free is None or free < DISK_FREE_GB):
        found.append(("disk", f"{disk:.0%} of the disk of GPU_MESH_STATE_DIR is in use", "free some space there"))
    if skew is not None and abs(skew) > SKEW_S:
        how = "ahead of" if skew > 0 else "behind"
        found.append(("clock", f"its clock is {abs(skew):.1f} s {how} Redis's", "have both machines follow NTP"))
    return found


def of_endpoint(seen: Endpoint) -> list[Finding]:
    """Findings of an address that is only watched."""
    if seen.error is None:
        return []
    return [Finding(Severity.FAILURE, "engine", seen.error, _REMEDIES["remote"].format(url=seen.url))]
