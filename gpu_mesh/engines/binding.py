"""Which engine does a device's work: bound to an address of its own, found on the usual ports, or in this process.

Nothing is asked at import. What was found stays for the life of the process, so that a device does not change its
engine, and with it its vectors, because a server is being restarted.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence

from gpu_mesh.domain.device import Device, DeviceKind
from gpu_mesh.engines import discovery
from gpu_mesh.engines.base import Ability, Engine, Kind
from gpu_mesh.engines.importing import unforked
from gpu_mesh.engines.local import LOCAL
from gpu_mesh.engines.naming import canonical
from gpu_mesh.errors import EngineUnavailable
from gpu_mesh.settings import Settings, env_name

__all__ = ["Engines", "bound_url", "engine_for", "engines_for"]

logger = logging.getLogger(__name__)

#: How long nothing found on the usual ports is taken for an answer, s.
LOOK_AGAIN_S = 30.0
#: The kinds of engines that have an address.
REMOTE = ("ollama", "openai")


def bound_url(device: Device, settings: Settings) -> str | None:
    """The address the device is bound to by `GPU_MESH_ENGINE_URLS`, else by its own declaration; None for none."""
    return settings.engine_urls.get(device.name) or device.engine_url


class Engines:
    """The engines of one process. `addresses` says where to look for those that nobody named."""

    def __init__(
        self, settings: Settings, *, addresses: Callable[[], Sequence[str]] = discovery.usual_addresses
    ) -> None:
        self._settings = settings
        self._addresses = addresses
        self._made: dict[tuple[str, str, bool], Engine] = {}
        self._kinds: dict[str, str] = {}
        self._found: tuple[discovery.Found, ...] = ()
        self._looked_at: float | None = None
        self._lock = threading.Lock()

    def of(self, device: Device) -> tuple[Engine, ...]:
        """The engines that may do the device's work, best first (`GPU_MESH_ENGINES`). May be none.

        A device with an address has that engine, then what runs in this process; one that is only an address
        (SPEC N5) has that engine alone.
        """
        wanted = self._settings.engines
        url = bound_url(device, self._settings)
        remote: dict[str, Engine] = {}
        if url is not None:
            kind = self._kind_at(url)
            remote[kind] = self._made_at(kind, url, keyed=True)
        else:
            for found in self._look():
                remote.setdefault(found.kind, self._made_at(found.kind, found.url, keyed=False))
        engines = dict(remote)
        if LOCAL.name in wanted and device.kind is not DeviceKind.ENDPOINT:
            engines[LOCAL.name] = LOCAL
        order = [*(name for name in remote if name not in wanted), *wanted]
        return tuple(engines[name] for name in order if name in engines)

    def choose(self, device: Device, kind: Kind | None = None, model: str | None = None) -> Engine:
        """The first engine of the device that does this kind of work and has the model (see `engine_for`)."""
        engines = [engine for engine in self.of(device) if kind is None or Ability(kind) in engine.abilities]
        if not engines:
            raise _nobody(device, kind)
        if len(engines) == 1 or (kind is None and model is None):
            return engines[0]
        wanted = model or self._default(kind)
        for engine in engines:
            present = engine.models()
            if wanted is None and any(kind in known.kinds for known in present):
                return engine
            if wanted is not None and canonical(wanted) in {canonical(known.name) for known in present}:
                return engine
        return next((engine for engine in engines if Ability.PULL in engine.abilities), engines[0])

    def close(self) -> None:
        """Close all of them and forget what was found."""
        with self._lock:
            made, self._made, self._kinds, self._looked_at = self._made, {}, {}, None
            self._found = ()
        for engine in made.values():
            engine.close()

    def _default(self, kind: Kind | None) -> str | None:
        return {Kind.EMBED: self._settings.embed_model, Kind.GENERATE: self._settings.chat_model, None: None}[kind]

    def _look(self) -> tuple[discovery.Found, ...]:
        kinds = [kind for kind in self._settings.engines if kind in REMOTE]
        now = time.monotonic()
        with self._lock:
            fresh = self._looked_at is not None and now - self._looked_at < LOOK_AGAIN_S
            if kinds and not self._found and not fresh:
                self._found, self._looked_at = discovery.find(self._addresses(), kinds), now
                for found in self._found:
                    logger.info("found %s at %s", found.kind, found.url, extra={"action": "discover"})
            return self._found

    def _kind_at(self, url: str) -> str:
        """What answers there; while nobody does, a guess by the port that is not remembered."""
        if url not in self._kinds:
            kind = discovery.identify(url, REMOTE, timeout_s=self._settings.engine_check_timeout_s)
            if kind is None:
                return discovery.kind_by_port(url) or next((k for k in self._settings.engines if k in REMOTE), "ollama")
            self._kinds[url] = kind
        return self._kinds[url]

    def _made_at(self, kind: str, url: str, *, keyed: bool) -> Engine:
        """The engine for that address; one made twice by two threads is dropped: it has opened nothing."""
        made = self._made.get((kind, url, keyed))
        return made or self._made.setdefault((kind, url, keyed), _make(kind, url, self._settings, keyed=keyed))


def _make(kind: str, url: str, settings: Settings, *, keyed: bool) -> Engine:
    """`keyed`: an operator named the address, so that it may see the key."""
    with unforked():
        from gpu_mesh.engines.ollama import OllamaEngine
        from gpu_mesh.engines.openai import OpenAIEngine

    if kind == OllamaEngine.name:
        return OllamaEngine(
            url,
            timeout_s=settings.engine_timeout_s,
            check_timeout_s=settings.engine_check_timeout_s,
            keep_alive_s=settings.keep_alive_s,
            embed_model=settings.embed_model,
            chat_model=settings.chat_model,
            allow_pull=settings.engine_pull,
        )
    key = settings.engine_key.get_secret_value() if settings.engine_key and keyed else None
    return OpenAIEngine(
        url,
        key=key,
        timeout_s=settings.engine_timeout_s,
        check_timeout_s=settings.engine_check_timeout_s,
        embed_model=settings.embed_model,
        chat_model=settings.chat_model,
    )


def _nobody(device: Device, kind: Kind | None) -> EngineUnavailable:
    work = f" that can {kind}" if kind else ""
    return EngineUnavailable(
        f"no engine{work} was found for {device.worker}; start Ollama on its machine, or name an address in "
        f"{env_name('engine_urls')} (as {device.name}=http://127.0.0.1:11434); `gpu-mesh doctor` shows what is found"
    )


# By settings: a process has one, tests have several.
_processes: dict[int, tuple[Settings, Engines]] = {}


def _engines(settings: Settings) -> Engines:
    held = _processes.get(id(settings))
    if held is None:
        held = _processes.setdefault(id(settings), (settings, Engines(settings)))
    return held[1]


if hasattr(os, "register_at_fork"):
    # A lock that another thread held at the fork stays locked in the child for ever.
    os.register_at_fork(after_in_child=_processes.clear)


def engines_for(device: Device, settings: Settings) -> tuple[Engine, ...]:
    """The engines that may do the device's work, best first; those of this process, made once. See Engines.of."""
    return _engines(settings).of(device)


def engine_for(device: Device, settings: Settings, *, kind: Kind | None = None, model: str | None = None) -> Engine:
    """The engine that does this work for the device: the first, by `GPU_MESH_ENGINES`, that can and has the model.

    Without `kind`: the first. Where none has the model, the one that may fetch it, else the first, which then says
    that it has none. Cached per process.

    Raises:
        EngineUnavailable: there is none, or one before it in order does not answer: work does not move to another
            engine, with other models, because a server is away for a moment.
    """
    return _engines(settings).choose(device, kind, model)
