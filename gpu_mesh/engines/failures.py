"""From what goes wrong between us and an engine's server to our errors. Both HTTP engines share it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from gpu_mesh.errors import (
    EngineError,
    EngineOutOfMemory,
    EngineTimeout,
    EngineUnavailable,
    EngineUnsupported,
    InvalidTask,
)

__all__ = [
    "NOT_FOUND",
    "broke_off",
    "is_loopback",
    "malformed",
    "not_reached",
    "of_answer",
    "out_of_memory",
    "timed_out",
]

#: How much of a server's words an error repeats, in characters.
WORDS_SHOWN = 300

#: As Ollama (system memory, cudaMalloc, runner), llama.cpp (unable to allocate) and vLLM (CUDA, KV cache) say it.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|outofmemory|requires more (\w+ )?memory|(unable|failed|cannot) to? ?allocate|insufficient memory"
    r"|not enough (\w+ )?memory|no available memory",
    re.IGNORECASE,
)
#: As Ollama (`"all-minilm" does not support generate`) and vLLM (`The model does not support Embeddings API`) say it.
_WRONG_MODEL = re.compile(
    r"does(n't| not) support (the )?(generate|chat|completion|embed|text generation|thinking)", re.IGNORECASE
)
#: HTTP status: no such model, or no such path.
NOT_FOUND = 404
#: Answers of a server, or of a tunnel before it, that is not ready now: worth another try.
_NOT_READY = (408, 429, 502, 503, 504)
_REFUSED = (401, 403)
_NOT_DONE = 501

_REMEDIES: Mapping[str, str] = {
    "ollama": "is `ollama serve` running there?",
    "openai": "is the server running there?",
}


def is_loopback(url: str) -> bool:
    """Whether the address is this machine's own: no proxy stands before it."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def not_reached(engine: str, url: str, cause: object) -> EngineUnavailable:
    """Nobody answers at the address."""
    return EngineUnavailable(f"{engine} at {url} does not answer ({_short(cause)}); {_REMEDIES[engine]}")


def timed_out(engine: str, url: str, limit_s: float) -> EngineTimeout:
    """Somebody does, but says nothing for too long."""
    return EngineTimeout(
        f"{engine} at {url} was silent for {limit_s:g} s; it may hang, or be loading a large model: see what that "
        "machine is busy with, or set GPU_MESH_ENGINE_TIMEOUT_S higher, for lists and checks "
        "GPU_MESH_ENGINE_CHECK_TIMEOUT_S"
    )


def broke_off(engine: str, url: str, cause: object) -> EngineUnavailable:
    """The connection was cut before the answer was whole."""
    return EngineUnavailable(
        f"{engine} at {url} broke off in the middle of its answer ({_short(cause)}); "
        "it may have crashed or been restarted: see its log"
    )


def malformed(engine: str, url: str, cause: object) -> EngineError:
    """What came back is no answer of such a server."""
    return EngineError(
        f"{engine} at {url} sent what is no answer of such a server ({_short(cause)}); "
        "is another program listening at that address, or is its version too old?"
    )


def out_of_memory(words: str) -> bool:
    """Whether a server's words mean that."""
    return bool(_OUT_OF_MEMORY.search(words))


def of_answer(engine: str, url: str, status: int, words: str, model: str | None) -> EngineError | InvalidTask:
    """For an answer that is an error: HTTP status (0 for one inside a stream) and what the server says.

    A model that is not there is not told apart here: servers disagree on how they say so.
    """
    said = _short(words)
    if out_of_memory(words):
        return EngineOutOfMemory(
            f"{engine} at {url} has too little memory for the model {model!r} ({said}); "
            "take a smaller model or context, or unload another model"
        )
    if _WRONG_MODEL.search(words):
        return InvalidTask("model", model, f"cannot do this kind of work ({said}); name a model that can")
    if status == _NOT_DONE:
        return EngineUnsupported(f"{engine} at {url} does not do this kind of work ({said})")
    if status in _NOT_READY:
        return EngineUnavailable(f"{engine} at {url} is not ready (HTTP {status}: {said}); try again later")
    if status in _REFUSED:
        return EngineError(
            f"{engine} at {url} refuses us (HTTP {status}: {said}); name its address in GPU_MESH_ENGINE_URLS "
            "and its key in GPU_MESH_ENGINE_KEY"
        )
    where = f"HTTP {status}: " if status else ""
    return EngineError(f"{engine} at {url} failed ({where}{said}); see its log")


def _short(cause: object) -> str:
    words = " ".join(str(cause).split()) or type(cause).__name__
    return words if len(words) <= WORDS_SHOWN else words[:WORDS_SHOWN] + "…"
