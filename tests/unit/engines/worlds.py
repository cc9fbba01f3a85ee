"""The engines the conformance suite runs over, what goes wrong in them, and both as the tables of docs/engines.md.

`python tests/unit/engines/worlds.py` writes the tables; a test compares them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

from ollama_stub import OllamaStub
from openai_stub import OpenAIStub
from stub_server import StubServer

from gpu_mesh.engines.base import Ability, Engine
from gpu_mesh.engines.local import LocalEngine
from gpu_mesh.engines.ollama import OllamaEngine
from gpu_mesh.engines.openai import OpenAIEngine
from gpu_mesh.errors import (
    EngineError,
    EngineOutOfMemory,
    EngineTimeout,
    EngineUnavailable,
    EngineUnsupported,
    InvalidTask,
    MeshError,
    ModelNotFound,
)

__all__ = ["ENGINES", "FAULTS", "STUBS", "Case", "World", "tables", "world"]

#: How long a stub may be silent before its engine gives up, s.
SILENCE_S = 0.3
PAGE = Path(__file__).parents[3] / "docs" / "engines.md"


@dataclass(frozen=True)
class World:
    """An engine and the stub it talks to, None where it needs none."""

    engine: Engine
    stub: StubServer | None


@contextmanager
def _local() -> Iterator[World]:
    yield World(LocalEngine(), None)


@contextmanager
def _ollama() -> Iterator[World]:
    with OllamaStub() as stub:
        yield World(OllamaEngine(stub.url), stub)


@contextmanager
def _openai() -> Iterator[World]:
    with OpenAIStub() as stub:
        yield World(OpenAIEngine(stub.url), stub)


#: Every engine by its name.
ENGINES: dict[str, Callable[[], AbstractContextManager[World]]] = {
    "local": _local,
    "ollama": _ollama,
    "openai": _openai,
}
#: The stub of each engine that has a server, and that engine with little patience.
STUBS: dict[str, tuple[Callable[[], StubServer], Callable[..., Engine]]] = {
    "ollama": (OllamaStub, OllamaEngine),
    "openai": (OpenAIStub, OpenAIEngine),
}
#: A model of each that embeds only, and one that generates only.
EMBEDDERS = {"ollama": "nomic-embed-text", "openai": "bge-small-en-v1.5"}
GENERATORS = {"ollama": "gemma4:e4b", "openai": "qwen3-8b"}


@contextmanager
def world(name: str) -> Iterator[World]:
    """The engine of that name, closed with the block."""
    with ENGINES[name]() as made:
        try:
            yield made
        finally:
            made.engine.close()


@dataclass(frozen=True)
class Case:
    """What goes wrong, in words; the Fault that does it; what the engine raises."""

    words: str
    raises: type[MeshError]
    fault: dict[str, Any] = field(default_factory=dict)

    @property
    def in_stream(self) -> bool:
        """Whether it happens after the first piece."""
        return self.fault["kind"] in ("drop", "stream_error", "stream_malformed", "truncated", "stall")


def _answer(words: str, raises: type[MeshError], status: int, text: str) -> Case:
    return Case(f"{words} (HTTP {status}: {text})", raises, {"kind": "error", "status": status, "text": text})


#: As each server words it.
OUT_OF_MEMORY = {
    "Ollama": "model requires more system memory (12.0 GiB) than is available (2.0 GiB)",
    "Ollama's runner": "llama runner process has terminated: cudaMalloc failed: out of memory",
    "llama.cpp": "unable to allocate CUDA0 buffer",
    "vLLM": "CUDA out of memory. Tried to allocate 2.00 GiB",
    "vLLM at start": "No available memory for the cache blocks",
}
FAULTS = (
    Case("silent before its answer", EngineTimeout, {"kind": "hang"}),
    Case("silent within its answer", EngineTimeout, {"kind": "stall"}),
    Case("connection reset before the answer", EngineUnavailable, {"kind": "reset"}),
    Case("connection cut within the answer", EngineUnavailable, {"kind": "drop"}),
    Case("the answer ends without its last piece", EngineUnavailable, {"kind": "truncated"}),
    Case("no answer of such a server", EngineError, {"kind": "malformed"}),
    Case("a piece that is none", EngineError, {"kind": "stream_malformed"}),
    Case("a failure within the answer", EngineError, {"kind": "stream_error"}),
    Case("out of memory within the answer", EngineOutOfMemory, {"kind": "stream_error", "text": "CUDA out of memory"}),
    *(_answer(f"out of memory, {who}", EngineOutOfMemory, 500, text) for who, text in OUT_OF_MEMORY.items()),
    _answer("internal error", EngineError, 500, "something went wrong"),
    _answer("bad request", EngineError, 400, "invalid option"),
    _answer("no leave", EngineError, 401, "Unauthorized"),
    _answer("too many requests", EngineUnavailable, 429, "slow down"),
    _answer("the tunnel's other end is away", EngineUnavailable, 502, "Bad Gateway"),
    _answer("busy", EngineUnavailable, 503, "server busy, please try again. maximum pending requests exceeded"),
    _answer("not built for it", EngineUnsupported, 501, "not implemented"),
    _answer("a model of the wrong kind", InvalidTask, 400, '"nomic-embed-text" does not support generate'),
)
#: What the suite provokes otherwise, for the table.
OTHERS = (
    Case("nobody listens at the address", EngineUnavailable),
    Case("the model is not there", ModelNotFound),
    Case("wrong type or value", InvalidTask),
)
_WORK = {
    Ability.EMBED: "`embed`",
    Ability.GENERATE: "`generate`, `chat`, streamed",
    Ability.LOADED: "`loaded`: what is in memory, and where",
    Ability.LOAD: "`load`",
    Ability.UNLOAD: "`unload`",
    Ability.PULL: "`pull`",
}


def tables() -> dict[str, str]:
    """The tables by the name of their place on the page."""
    abilities = {"local": LocalEngine.abilities, "openai": OpenAIEngine.abilities}
    abilities["ollama"] = OllamaEngine("http://127.0.0.1:1", allow_pull=True).abilities
    names = ("ollama", "openai", "local")
    lines = [f"| Work | {' | '.join(f'`{name}`' for name in names)} |", "|---|---|---|---|"]
    for ability, words in _WORK.items():
        cells = ["yes" if ability in abilities[name] else "`EngineUnsupported`" for name in names]
        if ability is Ability.PULL:
            cells[0] = "with `GPU_MESH_ENGINE_PULL=true`, else `EngineUnsupported`"
        lines.append(f"| {words} | {' | '.join(cells)} |")
    faults = ["| What happens | What is raised |", "|---|---|"]
    faults += [f"| {case.words} | `{case.raises.__name__}` |" for case in (*OTHERS, *FAULTS)]
    return {"abilities": "\n".join(lines), "errors": "\n".join(faults)}


def page(text: str) -> str:
    """The page with its tables as they should be."""
    for name, table in tables().items():
        mark = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = mark.sub(lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text)
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
