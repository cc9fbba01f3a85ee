"""Which engines answer on this machine's usual ports, and which kind of engine answers at an address."""

from __future__ import annotations

import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import psutil

from gpu_mesh.engines import failures
from gpu_mesh.engines.importing import unforked
from gpu_mesh.engines.openai import api_url

if TYPE_CHECKING:
    import httpx

__all__ = ["Found", "find", "identify", "is_here", "kind_by_port", "place", "somebody_listens", "usual_addresses"]

logger = logging.getLogger(__name__)

#: Where engines listen unless told otherwise: Ollama; LM Studio, llama.cpp, vLLM.
USUAL_PORTS: Mapping[str, tuple[int, ...]] = {"ollama": (11434,), "openai": (1234, 8080, 8000)}
#: Where Ollama's own tools look for it.
OLLAMA_HOST = "OLLAMA_HOST"
#: How long one question of a probe may wait on this machine, s, and how long all of them together take at most.
PROBE_TIMEOUT_S = 0.5
PROBES_TIMEOUT_S = 1.5
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Found:
    """An engine that answers: `kind` is `ollama` or `openai`, `url` has no slash at the end."""

    kind: str
    url: str


def usual_addresses(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Where to look on this machine: OLLAMA_HOST where it is set, and the usual ports of loopback; each once."""
    named = _ollama_host(environ.get(OLLAMA_HOST, ""))
    usual = [f"http://127.0.0.1:{port}" for ports in USUAL_PORTS.values() for port in ports]
    urls = [*([named] if named else []), *usual]
    return tuple({place(url): url for url in reversed(urls)}.values())[::-1]


def place(url: str) -> str:
    """What two addresses of the same server have in common: host, port and path, loopback by any name."""
    split = urlsplit(url)
    host = "loopback" if failures.is_loopback(url) else (split.hostname or "").lower()
    path = split.path.rstrip("/").removesuffix("/v1")
    return f"{host}:{split.port or _DEFAULT_PORTS.get(split.scheme, 0)}{path}"


def find(addresses: Sequence[str], kinds: Sequence[str]) -> tuple[Found, ...]:
    """The engines of these `kinds` that answer at `addresses`, by the order of `kinds`, then of `addresses`.

    All are asked at once; who has not answered within PROBES_TIMEOUT_S is left out.
    """
    answers: queue.Queue[tuple[int, str | None]] = queue.Queue()

    def ask(index: int) -> None:
        answers.put((index, identify(addresses[index], kinds)))

    for index in range(len(addresses)):
        # As a daemon: who answers byte by byte must not keep this process from ending.
        threading.Thread(target=ask, args=(index,), daemon=True, name=f"probe {addresses[index]}").start()
    found: dict[int, str] = {}
    deadline = time.monotonic() + PROBES_TIMEOUT_S
    for _ in addresses:
        try:
            index, kind = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        if kind is not None:
            found[index] = kind
    ordered = sorted(found, key=lambda index: (list(kinds).index(found[index]), index))
    return tuple(Found(found[index], addresses[index]) for index in ordered)


def somebody_listens(kinds: Sequence[str], addresses: Sequence[str] | None = None) -> bool:
    """Whether anybody accepts connections at the usual addresses, where an engine of `kinds` is looked for at all."""
    if not any(kind in USUAL_PORTS for kind in kinds):
        return False
    for url in usual_addresses() if addresses is None else addresses:
        split = urlsplit(url)
        where = split.hostname or "127.0.0.1", split.port or _DEFAULT_PORTS.get(split.scheme, 0)
        try:
            with socket.create_connection(where, timeout=PROBE_TIMEOUT_S):
                return True
        except OSError:
            continue
    return False


def identify(url: str, kinds: Sequence[str], *, timeout_s: float = PROBE_TIMEOUT_S) -> str | None:
    """Which of `kinds` the server at `url` is; None when it is none of them or does not answer.

    Ollama is asked for first, whatever the order: it speaks OpenAI's API too, but then cannot unload.
    """
    with unforked():
        # Here, as it costs every process's start 0.2 s: few look for engines.
        import httpx

        limits = httpx.Timeout(timeout_s)
        made = httpx.Client(timeout=limits, trust_env=not failures.is_loopback(url), follow_redirects=True)
    try:
        with made as client:
            is_ollama = isinstance(_field(client, f"{url.rstrip('/')}/api/version", "version"), str)
            if is_ollama and "ollama" in kinds:
                return "ollama"
            if "openai" in kinds and isinstance(_field(client, f"{api_url(url)}/models", "data"), list):
                return "openai"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        logger.debug("no engine at %s: %s", url, error, extra={"action": "probe"})
    return None


def is_here(url: str) -> bool:
    """Whether an address is one of this machine."""
    if failures.is_loopback(url):
        return True
    host = urlsplit(url).hostname
    return any(host == address.address for addresses in psutil.net_if_addrs().values() for address in addresses)


def kind_by_port(url: str) -> str | None:
    """Which kind usually listens on the address's port; None for a port that none does."""
    port = urlsplit(url).port
    return next((kind for kind, ports in USUAL_PORTS.items() if port in ports), None)


def _field(client: httpx.Client, url: str, field: str) -> object:
    answer = client.get(url)
    if answer.is_error:
        return None
    try:
        said = answer.json()
    except ValueError:
        return None
    return said.get(field) if isinstance(said, dict) else None


def _ollama_host(value: str) -> str | None:
    """As Ollama reads it: scheme, host and port may each be missing; an address to listen on is loopback to us."""
    text = value.strip().strip("\"'")
    if not text:
        return None
    scheme, sign, rest = text.partition("://")
    scheme, rest = (scheme, rest) if sign else ("http", text)
    try:
        split = urlsplit(f"{scheme}://{rest}")
        port = split.port or (_DEFAULT_PORTS.get(scheme, 0) if sign else USUAL_PORTS["ollama"][0])
        host = split.hostname or "127.0.0.1"
    except ValueError:
        scheme, host, port = "", "", 0
    if scheme not in _DEFAULT_PORTS or not port:
        logger.warning("%s=%r is no address: ignored", OLLAMA_HOST, value, extra={"action": "probe"})
        return None
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    shown = f"[{host}]" if ":" in host else host
    return urlunsplit((scheme, f"{shown}:{port}", split.path.rstrip("/"), "", ""))
