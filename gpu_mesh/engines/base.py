"""The engine protocol: what every engine offers the tasks and the health checks, and the data it speaks in.

An engine runs models: in this process (`local`), or behind an address (Ollama, an OpenAI-compatible server).
All of them pass the suite in tests/unit/engines/test_conformance.py.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeAlias

from gpu_mesh.errors import InvalidTask, ModelNotFound

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Chunk",
    "Chunks",
    "Embeddings",
    "Engine",
    "EngineStatus",
    "GenerateOptions",
    "Kind",
    "Message",
    "Model",
    "check_model",
    "check_texts",
]


class Kind(StrEnum):
    """What a model can do."""

    EMBED = "embed"
    GENERATE = "generate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model that the engine has. Sizes in GB (2^30 bytes), None where the engine does not tell."""

    name: str
    #: Empty where the engine does not tell.
    kinds: frozenset[Kind] = frozenset()
    #: Memory it takes once loaded.
    size_gb: float | None = None
    #: The part of it that lies in GPU memory now: less than `size_gb` means that the CPU does part of the work.
    vram_gb: float | None = None
    #: Whether it is in memory now.
    loaded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """What one check found."""

    reachable: bool
    #: How long the check took, in milliseconds.
    response_ms: float
    version: str | None = None
    models: tuple[Model, ...] = ()
    #: Why it is not reachable and what to do; None when it is.
    error: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Vectors of texts, in the order of the texts."""

    #: The model that made them, also when the caller named none.
    model: str
    #: Shape (texts, dimensions). Rows have length 1, so that a dot product is the cosine similarity; the row
    #: of a text that is empty or only whitespace is all zeros, similar to nothing. Never NaN.
    vectors: NDArray[np.float32]

    @property
    def dimensions(self) -> int:
        """Length of one vector."""
        return int(self.vectors.shape[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """How to generate. None leaves it to the engine."""

    max_tokens: int | None = None
    #: 0 is the most likely token always.
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    #: Texts at which generation stops.
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of generated text."""

    text: str
    #: Whether it is the last one: only that one has the fields below.
    done: bool = False
    #: `stop` (the model ended) or `length` (`max_tokens` reached).
    reason: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None


#: Generated text as it comes. `close()` stops the work; an error is raised at the call or at the first chunk.
Chunks: TypeAlias = Generator[Chunk, None, None]

#: One turn of a chat: `{"role": "system" | "user" | "assistant", "content": "…"}`.
Message: TypeAlias = Mapping[str, str]


class Engine(Protocol):
    """Runs models. Safe to use from several threads.

    `model=None` takes the engine's default model. Besides the errors each method names, an engine that does
    not answer, or cannot do this kind of work, raises EngineUnavailable; one that answers with a failure
    raises EngineError.
    """

    #: As in the settings: `local`.
    name: str

    def check(self) -> EngineStatus:
        """See how the engine is, without loading a model. Never raises: what is wrong stands in the status."""
        ...

    def models(self) -> tuple[Model, ...]:
        """All models present, the default for embedding first where there is one."""
        ...

    def embed(self, texts: Sequence[str], model: str | None = None) -> Embeddings:
        """Vectors of shape (len(texts), dimensions), independent of what else is in `texts`.

        Raises InvalidTask (field `texts` or `model`) for wrong types, ModelNotFound.
        """
        ...

    def generate(
        self,
        prompt: str,
        model: str | None = None,
        *,
        system: str | None = None,
        options: GenerateOptions | None = None,
    ) -> Chunks:
        """Continue `prompt`. Raises InvalidTask for wrong types, ModelNotFound."""
        ...

    def chat(
        self, messages: Sequence[Message], model: str | None = None, *, options: GenerateOptions | None = None
    ) -> Chunks:
        """Answer the last of `messages`. Raises InvalidTask for wrong types, ModelNotFound."""
        ...

    def unload(self, model: str | None = None) -> None:
        """Free the model's memory; the next use loads it again. Not loaded: nothing happens. Raises ModelNotFound."""
        ...

    def close(self) -> None:
        """Give back connections and memory. May be called twice; a later use opens the engine again."""
        ...


def check_texts(texts: object) -> list[str]:
    """`texts` as every engine can take them: lone surrogates, which UTF-8 cannot express, become `?`.

    Raises InvalidTask (field `texts`) unless it is a list or tuple of strings; the error names the first
    item that is none by its index.
    """
    if not isinstance(texts, list | tuple):
        hint = "; put the one text into a list" if isinstance(texts, str) else ""
        raise InvalidTask("texts", texts, f"is of type {type(texts).__name__}, expected a list of strings{hint}")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            kind = type(text).__name__
            raise InvalidTask("texts", text, f"item {index} is of type {kind}, expected a string")
    return [text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8") for text in texts]


def check_model(model: object, present: Sequence[str], engine: str) -> str:
    """The model's name, for None the first of `present`.

    Raises InvalidTask (field `model`) for what is no string, ModelNotFound for what the engine does not have.
    """
    if model is not None and not isinstance(model, str):
        raise InvalidTask("model", model, f"is of type {type(model).__name__}, expected a model's name as a string")
    if model is None and present:
        return present[0]
    if model is None or model not in present:
        have = ", ".join(present) or "none"
        raise ModelNotFound(f"the engine {engine!r} has no model {model!r}; it has: {have}. Name one of them")
    return model
