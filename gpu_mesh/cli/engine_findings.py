"""What `gpu-mesh doctor` says of engines: what serves each device, and what is wrong with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from gpu_mesh.cli.findings import ENGINE, Finding
from gpu_mesh.cli.resident_findings import resident_findings
from gpu_mesh.domain.device import Device
from gpu_mesh.engines.base import Ability, Engine, EngineStatus, Model
from gpu_mesh.engines.binding import Engines, bound_url
from gpu_mesh.engines.discovery import place
from gpu_mesh.settings import Settings, env_name

__all__ = ["engine_findings"]

#: Each device with its engines.
Served: TypeAlias = list[tuple[Device, tuple[Engine, ...]]]

URLS = env_name("engine_urls")
#: Engines asked at once.
MOST_AT_ONCE = 32
#: Models named in one line at most.
MODELS_SHOWN = 6
TWO_OLLAMAS = (
    "run one Ollama per GPU (CUDA_VISIBLE_DEVICES=1 OLLAMA_HOST=127.0.0.1:11435 ollama serve) and bind them: "
    f"{URLS}=gpu0=http://127.0.0.1:11434,gpu1=http://127.0.0.1:11435"
)
GET_ONE = "to generate text install Ollama (ollama.com/download), `ollama pull` a model, and run doctor again"


def engine_findings(devices: Sequence[Device], settings: Settings, engines: Engines | None = None) -> list[Finding]:
    """One finding for each device, then what is wrong: devices that share an address, models on the CPU, unknown names.

    `engines` says what was found; without, it is looked for now. All are asked at once.
    """
    engines = engines or Engines(settings)
    try:
        with ThreadPoolExecutor(max_workers=MOST_AT_ONCE) as pool:
            served = list(zip(devices, pool.map(engines.of, devices), strict=True))
            asked = {id(engine): engine for _, several in served for engine in several}
            statuses = dict(zip(asked, pool.map(lambda engine: engine.check(), asked.values()), strict=True))
        findings = [_served(device, several, statuses, settings) for device, several in served]
        findings += _on_cpu(served, statuses) + _shared(served) + _unknown(devices, settings)
        findings += resident_findings(_unloading(served, statuses), settings)
    finally:
        engines.close()
    return findings


def _served(
    device: Device, engines: Sequence[Engine], statuses: dict[int, EngineStatus], settings: Settings
) -> Finding:
    """What serves the device. An address that does not answer is missing; one nobody named is only worth a word."""
    if not engines:
        return Finding(ENGINE, "missing", f"{device.name}: no engine", f"name its address in {URLS}; {GET_ONE}")
    found = f"{device.name}: " + "; ".join(_described(engine, statuses[id(engine)]) for engine in engines)
    down = [engine for engine in engines if not statuses[id(engine)].reachable]
    if down:
        remedy = f"start it, or change the address in {URLS}" if bound_url(device, settings) else ""
        return Finding(ENGINE, "missing", found, remedy)
    if not any(Ability.GENERATE in engine.abilities for engine in engines):
        return Finding(ENGINE, "ok", f"{found}; text cannot be generated here", GET_ONE)
    return Finding(ENGINE, "ok", found)


def _described(engine: Engine, status: EngineStatus) -> str:
    if not status.reachable:
        return status.error or f"{engine.name} does not work"
    names = [model.name + (" (loaded)" if model.loaded and engine.url else "") for model in status.models]
    more = f" and {len(names) - MODELS_SHOWN} more" if len(names) > MODELS_SHOWN else ""
    models = ", ".join(names[:MODELS_SHOWN]) + more if names else "no models"
    if engine.url is None:
        return f"in-process, embeds with {models}"
    version = f" {status.version}" if status.version else ""
    return f"{engine.name}{version} at {engine.url} ({status.response_ms:.0f} ms), has {models}"


def _on_cpu(served: Served, statuses: dict[int, EngineStatus]) -> list[Finding]:
    found = []
    for device, engines in served:
        slow = [model for engine in engines for model in statuses[id(engine)].on_cpu] if device.is_gpu else []
        for model in slow:
            told = f"{device.name}: the CPU does {model.cpu_share:.0%} of {model.name}, which makes it slow"
            remedy = "unload other models, take a smaller one, or see whether the server finds its GPU"
            found.append(Finding(ENGINE, "note", told, remedy))
    return found


def _shared(served: Served) -> list[Finding]:
    """SPEC P7: a server that serves two devices loads and unloads behind the mesh's back."""
    users: dict[str, list[Device]] = defaultdict(list)
    urls: dict[str, str] = {}
    for device, engines in served:
        for engine in engines:
            if engine.url is not None:
                users[place(engine.url)].append(device)
                urls.setdefault(place(engine.url), engine.url)
    return [
        Finding(
            ENGINE,
            "note",
            f"{', '.join(device.name for device in sharing)} share the engine at {urls[where]}: their jobs "
            "would load and unload each other's models",
            TWO_OLLAMAS,
        )
        for where, sharing in users.items()
        if len(sharing) > 1
    ]


def _unloading(served: Served, statuses: dict[int, EngineStatus]) -> list[tuple[Device, Sequence[Model]]]:
    """Each device with the models of the engine in which the mesh makes room, where that one answers."""
    return [
        (device, statuses[id(engine)].models)
        for device, engines in served
        for engine in engines
        if engine.url is not None and Ability.UNLOAD in engine.abilities and statuses[id(engine)].reachable
    ]


def _unknown(devices: Sequence[Device], settings: Settings) -> list[Finding]:
    names = [device.name for device in devices]
    wrong = [name for name in settings.engine_urls if name not in names]
    if not wrong:
        return []
    told = f"{URLS} names {', '.join(wrong)}; the devices of this node are {', '.join(names)}"
    return [Finding(ENGINE, "missing", told, f"correct the names in {URLS}")]
