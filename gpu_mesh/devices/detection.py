"""From the setting `GPU_MESH_DEVICES` and the hardware here to the devices of this node."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import assert_never

from gpu_mesh.devices.apple import AppleSource
from gpu_mesh.devices.base import DeviceSource, Reading
from gpu_mesh.devices.cpu import CpuSource
from gpu_mesh.devices.endpoint import EndpointSource
from gpu_mesh.devices.fake import FakeSource
from gpu_mesh.devices.nvml import NvmlSource
from gpu_mesh.domain import gpus
from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.domain.devicespec import (
    SETTING,
    AppleSpec,
    AutoSpec,
    CpuSpec,
    DeviceSpec,
    EndpointSpec,
    FakeSpec,
    NvidiaSpec,
    parse,
)
from gpu_mesh.errors import DeviceError, InvalidSetting

__all__ = ["detect", "read", "source_for"]

logger = logging.getLogger(__name__)

#: What hides NVIDIA GPUs from a process: those listed, by number or UUID, are seen; an empty list shows none.
VISIBLE = "CUDA_VISIBLE_DEVICES"

_SOURCES: Mapping[DeviceKind, Callable[[], DeviceSource]] = MappingProxyType(
    {
        DeviceKind.NVIDIA: NvmlSource,
        DeviceKind.APPLE: AppleSource,
        DeviceKind.CPU: CpuSource,
        DeviceKind.ENDPOINT: EndpointSource,
        DeviceKind.FAKE: FakeSource,
    }
)


def source_for(device: Device) -> DeviceSource:
    """What reads devices of that kind on this machine."""
    return _SOURCES[device.kind]()


def read(device: Device) -> Reading:
    """How a device of this machine is now; all null where nobody here can look (SPEC N5).

    Raises:
        DeviceError: it is lost or cannot be read; the message says what to do.
    """
    return source_for(device).read(device)


def detect(
    spec: str,
    *,
    node: str,
    gpu_enabled: bool = True,
    labels: Mapping[str, str] = MappingProxyType({}),
    models: Mapping[str, Sequence[str]] = MappingProxyType({}),
    margin_gb: float = 0.0,
    powers: Mapping[str, float] | None = None,
    costs: Mapping[str, float] | None = None,
    nvml: Callable[[], DeviceSource] = NvmlSource,
    apple: Callable[[], DeviceSource] = AppleSource,
    cpu: Callable[[int], DeviceSource] = CpuSource,
    environ: Mapping[str, str] = os.environ,
) -> tuple[Device, ...]:
    """The devices of this node (SPEC N1, N5, P6): at least one, names unique, in the order `spec` asks for them.

    `models`: by a device's name those it is kept for. `gpu_enabled` False makes `auto` a CPU device. `margin_gb` is
    kept free on each device, but never more than it has, and on none of kind CPU. `powers` (RTX 4090 = 100) and `costs`
    (US dollars per hour), by GPU type, win over `gpu_mesh.domain.gpus`. NVIDIA GPUs that `CUDA_VISIBLE_DEVICES` of
    `environ` hides are left alone. `nvml`, `apple` and `cpu` make the sources of this machine's hardware; tests pass
    others.

    Raises:
        InvalidSetting: `spec` is wrong, or names hardware that is not here.
        DeviceError: hardware asked for by name is here but cannot be read.
    """
    machine = _Machine(spec, nvml, apple, cpu, environ.get(VISIBLE))
    wanted = parse(spec)
    if not gpu_enabled:
        wanted = tuple(machine.without_gpu(part) for part in wanted)
    found = [device for part in wanted for device in machine.find(part)]
    devices = tuple(
        _completed(device, node=node, labels=labels, margin_gb=margin_gb, powers=powers, costs=costs)
        for device in _renumbered(found)
    )
    return _kept(devices, models)


class _Machine:
    """This machine's hardware, and the setting that asks for it."""

    def __init__(
        self,
        text: str,
        nvml: Callable[[], DeviceSource],
        apple: Callable[[], DeviceSource],
        cpu: Callable[[int], DeviceSource],
        visible: str | None,
    ) -> None:
        self._text = text
        self._nvml = nvml
        self._apple = apple
        self._cpu = cpu
        self._visible = visible

    def find(self, spec: DeviceSpec) -> tuple[Device, ...]:
        match spec:
            case AutoSpec():
                return self._shown(self._try(self._nvml())) or self._try(self._apple()) or self._cpu(1).devices()
            case NvidiaSpec():
                return self._need(
                    self._shown(self._nvml().devices()),
                    f"no NVIDIA GPU was found; see whether `nvidia-smi` lists one that {VISIBLE} hides, or drop nvidia",
                )
            case AppleSpec():
                return self._need(self._apple().devices(), "this machine is no Mac with Apple silicon; drop apple")
            case CpuSpec(count):
                return self._cpu(count).devices()
            case FakeSpec():
                return FakeSource([spec]).devices()
            case EndpointSpec():
                return EndpointSource([spec]).devices()
            case _:
                assert_never(spec)

    def without_gpu(self, spec: DeviceSpec) -> DeviceSpec:
        """What the part means on a machine whose own GPU may not be used: addresses and pretences stay."""
        if isinstance(spec, AutoSpec):
            return CpuSpec()
        if isinstance(spec, NvidiaSpec | AppleSpec):
            raise InvalidSetting(
                SETTING, self._text, "names a GPU of this machine, yet GPU_ENABLED is false; change one"
            )
        return spec

    def _shown(self, found: tuple[Device, ...]) -> tuple[Device, ...]:
        if self._visible is None or not found:
            return found
        shown = _listed(self._visible, found)
        if len(shown) < len(found):
            hidden = ", ".join(device.name for device in found if device not in shown)
            logger.info("%s=%s hides %s", VISIBLE, self._visible, hidden, extra={"action": "detect"})
        return shown

    def _need(self, found: tuple[Device, ...], remedy: str) -> tuple[Device, ...]:
        if not found:
            raise InvalidSetting(SETTING, self._text, remedy)
        return found

    @staticmethod
    def _try(source: DeviceSource) -> tuple[Device, ...]:
        """A machine with a broken driver still serves, with what else it has; its operator reads why."""
        try:
            return source.devices()
        except DeviceError as error:
            logger.error("going on without %s: %s", source.kind, error, extra={"action": "detect"})
            return ()


def _listed(visible: str, found: tuple[Device, ...]) -> tuple[Device, ...]:
    """Those that `CUDA_VISIBLE_DEVICES` lists, in NVML's order: by number, or by as much of the UUID as is unique.

    As CUDA does, ends at the first entry that names none (CUDA C++ Programming Guide, environment variables). Numbers
    are NVML's, CUDA's with `CUDA_DEVICE_ORDER=PCI_BUS_ID`. A part of a GPU (`MIG-…`) is none of ours.
    """
    shown = set()
    for entry in map(str.strip, visible.split(",")):
        same = [d.name for d in found if d.name == f"gpu{entry}" or (entry and (d.uuid or "").startswith(entry))]
        if len(same) != 1:
            break
        shown.update(same)
    return tuple(device for device in found if device.name in shown)


def _renumbered(devices: Iterable[Device]) -> list[Device]:
    """With names unique: whoever comes second is numbered on from the highest of that stem."""
    named: list[Device] = []
    taken: set[str] = set()
    for device in devices:
        name = device.name
        if name in taken:
            stem = re.sub(r"\d+$", "", name)
            name = f"{stem}{1 + max(int(other.removeprefix(stem)) for other in taken if _is_numbered(other, stem))}"
        taken.add(name)
        named.append(replace(device, name=name))
    return named


def _is_numbered(name: str, stem: str) -> bool:
    return re.fullmatch(re.escape(stem) + r"\d+", name) is not None


def _kept(devices: tuple[Device, ...], models: Mapping[str, Sequence[str]]) -> tuple[Device, ...]:
    """With the models that each is kept for."""
    names = [device.name for device in devices]
    for name in models:
        if name not in names:
            raise InvalidSetting("GPU_MESH_MODELS", name, f"the devices of this node are {', '.join(names)}")
    return tuple(replace(device, models=tuple(models.get(device.name, ()))) for device in devices)


def _completed(
    device: Device,
    *,
    node: str,
    labels: Mapping[str, str],
    margin_gb: float,
    powers: Mapping[str, float] | None,
    costs: Mapping[str, float] | None,
) -> Device:
    """With what the operator says of it and what is known of its type."""
    on_processor = device.kind is DeviceKind.CPU
    look_up = gpus.processor if on_processor else gpus.known
    facts = look_up(device.gpu_type, powers=powers, costs=costs)
    return replace(
        device,
        node=node,
        labels=dict(labels),
        margin_gb=0.0 if on_processor else min(margin_gb, device.memory_gb),
        power=facts.power,
        cost_per_hour=facts.cost_per_hour,
    )
