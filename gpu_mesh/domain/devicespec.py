"""Read the setting `GPU_MESH_DEVICES`: which devices this node offers.

    auto                        NVIDIA GPUs if there are any, else Apple silicon, else one CPU device
    nvidia | apple              those of this machine
    cpu | cpu:2                 this machine's processor, as one device or as two
    fake:TYPE:GB                a pretended GPU: `fake:RTX 4090:24`
    endpoint:TYPE:GB:URL        an engine elsewhere (SPEC N5): `endpoint:A40:40:http://127.0.0.1:11435`

All but `auto` may be combined, with commas between them. Memory in GB (2^30 bytes).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from gpu_mesh.errors import InvalidSetting

__all__ = [
    "ALLOWED",
    "SETTING",
    "AppleSpec",
    "AutoSpec",
    "CpuSpec",
    "DeviceSpec",
    "EndpointSpec",
    "FakeSpec",
    "NvidiaSpec",
    "parse",
]

#: The setting's name, as the user types it.
SETTING = "GPU_MESH_DEVICES"
#: What the setting may hold, for error messages.
ALLOWED = "auto, or a comma-separated list of nvidia, apple, cpu, cpu:COUNT, fake:TYPE:GB, endpoint:TYPE:GB:URL"
#: CPU devices of one machine at most: more is a slip of the pen.
MAX_CPU_DEVICES = 64
#: Memory of one declared device at most, in GB: more is a figure in MB.
MAX_MEMORY_GB = 4096.0
#: Length of a declared type at most, in characters.
MAX_TYPE_LENGTH = 80

_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_COUNT = re.compile(r"[0-9]{1,4}")
_USER = re.compile(r"//[^/,]*@")


@dataclass(frozen=True, slots=True)
class AutoSpec:
    """Whatever the machine has."""


@dataclass(frozen=True, slots=True)
class NvidiaSpec:
    """Every NVIDIA GPU of this machine; none is an error."""


@dataclass(frozen=True, slots=True)
class AppleSpec:
    """This machine's Apple silicon; none is an error."""


@dataclass(frozen=True, slots=True)
class CpuSpec:
    """This machine's processor, as `count` devices that share its memory evenly."""

    count: int = 1


@dataclass(frozen=True, slots=True)
class FakeSpec:
    """A pretended GPU."""

    gpu_type: str
    memory_gb: float


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """A GPU that is only an engine's address; `url` has no trailing slash."""

    gpu_type: str
    memory_gb: float
    url: str


DeviceSpec = AutoSpec | NvidiaSpec | AppleSpec | CpuSpec | FakeSpec | EndpointSpec


def parse(text: str) -> tuple[DeviceSpec, ...]:
    """Read the setting, in the order written; at least one. Looks at no hardware.

    Raises:
        InvalidSetting: naming the part that is wrong and what is allowed.
    """
    parts = [part.strip() for part in text.split(",")]
    try:
        specs = tuple(_part(part) for part in parts)
        _check_together(specs)
    except _Wrong as wrong:
        raise InvalidSetting(SETTING, _redacted(text), _redacted(f"{wrong}. Allowed: {ALLOWED}")) from None
    return specs


def _redacted(text: str) -> str:
    """Without passwords: settings errors end up in logs."""
    return _USER.sub("//***@", text)


class _Wrong(Exception):
    """What is wrong with a part, in words."""


def _part(part: str) -> DeviceSpec:
    if not part:
        raise _Wrong("a part is empty: write a device, and no comma before or after the list")
    kind, colon, rest = part.partition(":")
    read = _READERS.get(kind.strip().lower())
    if read is None:
        raise _Wrong(f"{part!r} is no kind of device")
    return read(part, rest if colon else None)


def _plain(spec: DeviceSpec) -> Callable[[str, str | None], DeviceSpec]:
    def read(part: str, rest: str | None) -> DeviceSpec:
        if rest is not None:
            raise _Wrong(f"{part!r}: {part.partition(':')[0]} takes nothing after it")
        return spec

    return read


def _cpu(part: str, rest: str | None) -> DeviceSpec:
    if rest is None:
        return CpuSpec()
    count = int(rest) if _COUNT.fullmatch(rest.strip()) else 0
    if not 1 <= count <= MAX_CPU_DEVICES:
        raise _Wrong(f"{part!r}: the count must be a whole number from 1 to {MAX_CPU_DEVICES}, as in cpu:2")
    return CpuSpec(count)


def _fake(part: str, rest: str | None) -> DeviceSpec:
    fields = (rest or "").split(":")
    if len(fields) != 2:
        raise _Wrong(f"{part!r}: expected fake:TYPE:GB, as in fake:RTX 4090:24")
    return FakeSpec(_gpu_type(part, fields[0]), _memory(part, fields[1]))


def _endpoint(part: str, rest: str | None) -> DeviceSpec:
    fields = (rest or "").split(":", 2)
    if len(fields) != 3:
        raise _Wrong(f"{part!r}: expected endpoint:TYPE:GB:URL, as in endpoint:A40:40:http://127.0.0.1:11435")
    return EndpointSpec(_gpu_type(part, fields[0]), _memory(part, fields[1]), _url(part, fields[2]))


def _gpu_type(part: str, text: str) -> str:
    gpu_type = text.strip()
    if not gpu_type.isprintable() or not any(c.isalnum() for c in gpu_type) or len(gpu_type) > MAX_TYPE_LENGTH:
        raise _Wrong(f"{part!r}: the type must be a name of 1 to {MAX_TYPE_LENGTH} characters, as in RTX 4090")
    return gpu_type


def _memory(part: str, text: str) -> float:
    memory = float(text) if _NUMBER.fullmatch(text.strip()) else 0.0
    if not 0.0 < memory <= MAX_MEMORY_GB:
        raise _Wrong(f"{part!r}: memory must be a number of GB above 0 and up to {MAX_MEMORY_GB:g}, not {text!r}")
    return memory


def _url(part: str, text: str) -> str:
    url = text.strip()
    try:
        split = urlsplit(url)
        is_wrong = split.port == 0 or not url.isprintable() or " " in url
    except ValueError as error:
        raise _Wrong(f"{part!r}: {url!r} is no address: {error}") from None
    if split.scheme not in ("http", "https") or not split.hostname or is_wrong:
        raise _Wrong(f"{part!r}: the address must be http://HOST[:PORT] or https://HOST[:PORT], not {url!r}")
    if split.username is not None or split.query or split.fragment:
        raise _Wrong(f"{part!r}: the address is shown to everyone: it may hold no user, password, query or fragment")
    return f"{split.scheme}{url[len(split.scheme) :]}".rstrip("/")


_READERS: dict[str, Callable[[str, str | None], DeviceSpec]] = {
    "auto": _plain(AutoSpec()),
    "nvidia": _plain(NvidiaSpec()),
    "apple": _plain(AppleSpec()),
    "cpu": _cpu,
    "fake": _fake,
    "endpoint": _endpoint,
}


def _check_together(specs: tuple[DeviceSpec, ...]) -> None:
    if AutoSpec() in specs and len(specs) > 1:
        raise _Wrong("auto stands alone: drop it, or the rest")
    for kind, name in ((NvidiaSpec, "nvidia"), (AppleSpec, "apple"), (CpuSpec, "cpu")):
        if sum(isinstance(spec, kind) for spec in specs) > 1:
            raise _Wrong(f"{name} is named twice: once covers the whole machine (for more CPU devices write cpu:COUNT)")
    urls = [spec.url.lower() for spec in specs if isinstance(spec, EndpointSpec)]
    twice = next((url for url in urls if urls.count(url) > 1), None)
    if twice:
        raise _Wrong(f"{twice} is named twice: each device needs an engine address of its own")
